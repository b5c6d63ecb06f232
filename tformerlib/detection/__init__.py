"""Detection: backbones, heads, boxes, matching, the loss, and average precision."""
