"""What each check of a reader's code must reject, and a second right answer that it must accept.

Each module here is a chapter's: RIGHT and WRONG by the name of the exercise.
"""
