"""Faster R-CNN and Mask R-CNN, as in section 5.6 of the paper."""
