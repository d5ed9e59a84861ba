"""How many of everything a detector has and is trained on."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Counts:
  """Numbers that follow the size of images.

  Those for COCO are Detectron's, except that levels are twice as coarse (its
  first has stride 4, for anchors of the same sizes) and that proposals are
  chosen from all levels at once.

  Attributes:
    levels: Of the pyramid, from stride 8.
    rpn_samples: Anchors of an image that count in the losses.
    roi_samples: Proposals of an image that the heads are trained on.
    before_nms: The best anchors, of which overlapping ones are suppressed.
    proposals: How many of these stay.
    detections: In an image, at most.
    mask_size: Of the features that a mask, twice as fine, is made from.
  """

  levels: int
  rpn_samples: int
  roi_samples: int
  before_nms: int
  proposals: int
  detections: int
  mask_size: int

  @property
  def strides(self) -> tuple[int, ...]:
    """Of the levels, in pixels; anchors are of four strides."""
    return tuple(8 * 2**i for i in range(self.levels))


COUNTS = {
  'small': Counts(3, 64, 32, 200, 64, 20, 7),
  'coco': Counts(5, 256, 512, 2000, 1000, 100, 14),
}
