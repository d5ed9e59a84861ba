"""A picture of what a detector finds, beside the truth."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import matplotlib.patches
import numpy as np

from examples.data import coco
from examples.paper.detection import detect, evaluate
from examples.paper.detection.anchors import make_anchors
from examples.paper.detection.networks import Detector

COUNT = 6
SHOWN = 0.3  # Detections from this score.


def draw(
  model: Detector, folder: Path, part: str, pixels: int, path: Path
) -> None:
  """Draws the first images of a part: the truth above, what is found below.

  Args:
    model: The detector, with masks.
    folder: The data, in COCO's form.
    part: Which part.
    pixels: The arrays' height and width.
    path: Where to write the JPEG file.
  """
  data = coco.Coco(folder, part, pixels)
  count = min(COUNT, len(data.ids))
  batch = coco.stacked([data.load(i) for i in range(count)])
  anchors = jnp.asarray(make_anchors(pixels, model.counts.strides))
  found = jax.device_get(detect.detect(model, batch, anchors))
  figure = matplotlib.figure.Figure(
    figsize=(2.2 * count, 4.8), layout='constrained'
  )
  grid = figure.subplots(2, count, squeeze=False)
  for i, (above, below) in enumerate(grid.T):
    boxes, classes, masks = (x[i] for x in batch.targets)
    for box, label, mask in zip(boxes, classes, masks, strict=True):
      if label > 0:
        _draw_object(above, box, data.names[label - 1], mask, label)
    rows = np.flatnonzero(found.scores[i] >= SHOWN)
    for row in rows:
      label, box = found.classes[i, row], found.boxes[i, row]
      mask = evaluate.paste(found.masks[i, row], box, (pixels, pixels))
      text = f'{data.names[label - 1]} {found.scores[i, row]:.2f}'
      _draw_object(below, box, text, mask, label)
    for panel in (above, below):
      panel.imshow(batch.images[i], zorder=0)
      panel.axis('off')
  grid[0, 0].set_title('truth', loc='left')
  grid[1, 0].set_title('found', loc='left')
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=110)


def _draw_object(panel, box, text, mask, label) -> None:
  left, top, right, bottom = box
  color = f'C{label % 10}'
  panel.add_patch(
    matplotlib.patches.Rectangle(
      (left, top), right - left, bottom - top, fill=False, color=color
    )
  )
  panel.text(left, top - 2, text, color=color, fontsize=7, clip_on=True)
  panel.contour(mask, [0.5], colors=[color], linewidths=0.8)
