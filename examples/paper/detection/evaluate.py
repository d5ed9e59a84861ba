"""Average precision, by COCO's own program."""

from collections.abc import Sequence
import contextlib
import io
from typing import Any

import numpy as np
from PIL import Image

from examples.data.coco import Coco
from examples.paper.detection.detect import Detections


def results(
  data: Coco, rows: Sequence[int], found: Detections
) -> list[dict[str, Any]]:
  """Detections as entries of a COCO results file, in the images' own pixels.

  Args:
    data: The images' part.
    rows: The images' indices; a batch may be longer than they are.
    found: What was found in the batch.

  Returns:
    A list of dicts, with masks as `segmentation` if there are any.
  """
  entries = []
  for at, row in enumerate(rows):
    for i in np.flatnonzero(np.asarray(found.scores[at]) > 0):
      box = np.asarray(found.boxes[at, i]) / data.scale(row)
      if not np.isfinite(box).all():  # COCO's program takes it for perfect.
        continue
      left, top, right, bottom = box
      entry = {
        'image_id': data.ids[row],
        'category_id': data.categories[int(found.classes[at, i]) - 1],
        'bbox': [float(x) for x in (left, top, right - left, bottom - top)],
        'score': float(found.scores[at, i]),
      }
      if found.masks is not None:
        size = data.api.imgs[data.ids[row]]
        entry['segmentation'] = encode(
          np.asarray(found.masks[at, i]),
          box,
          (size['height'], size['width']),
        )
      entries.append(entry)
  return entries


def encode(
  mask: np.ndarray, box: Sequence[float], size: tuple[int, int]
) -> dict[str, Any]:
  """A box's mask as the image's, run-length encoded.

  Args:
    mask: How likely each part of the box is the object, `(n, n)`.
    box: Left, top, right, bottom, in the image's pixels.
    size: The image's height and width.
  """
  from pycocotools import mask as coco_mask

  encoded = coco_mask.encode(np.asfortranarray(paste(mask, box, size)))
  return {'size': list(size), 'counts': encoded['counts'].decode()}


def paste(
  mask: np.ndarray, box: Sequence[float], size: tuple[int, int]
) -> np.ndarray:
  """A box's mask in its place, `size` uint8: 1 where it is likely."""
  left, top, right, bottom = box
  # How many parts of the mask one pixel spans.
  across = mask.shape[1] / max(right - left, 1e-6)
  down = mask.shape[0] / max(bottom - top, 1e-6)
  picture = Image.fromarray(mask.astype(np.float32)).transform(
    size[::-1],
    Image.Transform.AFFINE,
    (across, 0, -left * across, 0, down, -top * down),
    Image.Resampling.BILINEAR,
  )
  return (np.asarray(picture) >= 0.5).astype(np.uint8)


def average_precision(
  data: Coco, entries: list[dict[str, Any]], masks: bool
) -> dict[str, float]:
  """COCO's figures of a part's detections, in percent.

  Args:
    data: The part.
    entries: All its detections, from `results`; of none, all figures are 0.
    masks: Whether the network has masks.

  Returns:
    `box_ap`, `box_ap50` and, if it has masks, `mask_ap`, `mask_ap50` and,
    for what the masks know beyond their boxes, those of masks that fill the
    boxes, `filled_ap`, `filled_ap50`. AP is the mean over overlaps of 0.5 to
    0.95, AP50 that at 0.5.
  """
  from pycocotools.cocoeval import COCOeval

  kinds = {'box': ('bbox', entries)}
  if masks:
    kinds['mask'] = 'segm', entries
    kinds['filled'] = 'segm', filled(data, entries)
  figures = {}
  for name, (kind, of_kind) in kinds.items():
    ap = ap50 = 0.0
    if of_kind:
      with contextlib.redirect_stdout(io.StringIO()):
        found = data.api.loadRes([dict(e) for e in of_kind])
        evaluation = COCOeval(data.api, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
      ap, ap50 = evaluation.stats[:2]
    figures |= {
      f'{name}_ap': 100 * float(ap),
      f'{name}_ap50': 100 * float(ap50),
    }
  return figures


def filled(data: Coco, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The same detections with masks that fill their boxes."""
  whole = []
  for entry in entries:
    left, top, width, height = entry['bbox']
    box = left, top, left + width, top + height
    image = data.api.imgs[entry['image_id']]
    size = image['height'], image['width']
    mask = encode(np.ones((1, 1)), box, size)
    whole.append(entry | {'segmentation': mask})
  return whole


def chance(data: Coco, entries: list[dict[str, Any]]) -> float:
  """Box AP50 of the same detections, each image's given to the next, percent.

  That is what knowing the boxes of all images, but not this one, is worth.
  """
  following = dict(zip(data.ids, data.ids[1:] + data.ids[:1], strict=True))
  moved = [
    {name: entry[name] for name in ('category_id', 'bbox', 'score')}
    | {'image_id': following[entry['image_id']]}
    for entry in entries
  ]
  return average_precision(data, moved, masks=False)['box_ap50']
