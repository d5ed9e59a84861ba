"""Looks at the built pages in a browser: nothing may be cut at the edge.

    python docs/check_pages.py docs/_build/html

Opens every page in headless Chromium, as wide as a desktop and as a phone, and
prints elements that are wider than the window, except for those that scroll,
images that are missing, and formulas that were not drawn. Needs Debian's
chromium and chromium-driver, and the extra `docs-check`.
"""

import pathlib
import shutil
import sys

from selenium import webdriver

WIDTHS = (1400, 400)

# What stands out of the window, and is not in something that scrolls.
CUT = """
const width = document.documentElement.clientWidth;
const scrolls = e => {
  for (; e; e = e.parentElement) {
    const style = getComputedStyle(e);
    if (['auto', 'scroll', 'hidden'].includes(style.overflowX)) return true;
    if (style.position === 'fixed' || style.display === 'none') return true;
  }
  return false;
};
const found = [];
for (const e of document.querySelectorAll('article *')) {
  const box = e.getBoundingClientRect();
  if (box.width && box.right > width + 1 && !scrolls(e)) {
    found.push(e.tagName + ' ' + e.textContent.trim().slice(0, 60));
  }
}
for (const e of document.images) {
  if (!e.complete || !e.naturalWidth) found.push('image ' + e.src);
}
const text = document.querySelector('article').innerText;
if (/\\\\\\[|\\\\\\(|\\$\\$/.test(text)) {
  found.push('a formula that is not drawn');
}
return found.slice(0, 5);
"""


def browser() -> webdriver.Chrome:
  """Debian's Chromium, without a window."""
  options = webdriver.ChromeOptions()
  options.binary_location = shutil.which('chromium')
  for argument in ('--headless=new', '--no-sandbox', '--disable-gpu'):
    options.add_argument(argument)
  service = webdriver.ChromeService(shutil.which('chromedriver'))
  return webdriver.Chrome(options, service)


def look(driver: webdriver.Chrome, page: pathlib.Path, width: int) -> list[str]:
  """What is wrong with a page at a width, in pixels."""
  driver.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False},
  )
  driver.get(page.resolve().as_uri())
  return driver.execute_script(CUT)


def main(folder: str) -> None:
  """Looks at all pages of a folder; exits with 1 if one has a fault."""
  pages = sorted(pathlib.Path(folder).rglob('*.html'))
  if not pages:
    raise SystemExit(f'There are no pages in {folder}. Build them first.')
  driver = browser()
  faults = 0
  try:
    for page in pages:
      for width in WIDTHS:
        for fault in look(driver, page, width):
          faults += 1
          print(f'{page}, {width} pixels: {fault}')
  finally:
    driver.quit()
  print(f'{len(pages)} pages at {len(WIDTHS)} widths: {faults} faults')
  raise SystemExit(faults > 0)


if __name__ == '__main__':
  main(sys.argv[1])
