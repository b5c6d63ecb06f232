"""The book around the chapters: pages, assets, and the tools that make a website of them."""
