"""What a person's eyes would see of a page, computed in the browser.

``faults`` are texts without the contrast of WCAG 2.2, level AA (1.4.3), borders of fields, buttons
and bars without that of 1.4.11, and a page that is wider than its window (1.4.10). Colours are
those that the browser computed, each laid over what is behind it.
"""

from __future__ import annotations

from selenium.webdriver import Chrome

_SCRIPT = r"""
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
canvas.canvas.width = canvas.canvas.height = 1;

function parse(color) {
  const plain = color.match(/^rgba?\(([^)]+)\)$/);
  if (plain) {
    const [r, g, b, a = 1] = plain[1].split(/[\s,\/]+/).map(Number);
    return [r, g, b, a];
  }
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}

function over(top, below) {
  return [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
}

const known = new Map();

// Behind an element's text: the backgrounds of all that it is in, and how opaque these are.
function behind(element) {
  if (known.has(element)) return known.get(element);
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const canvas = {color: dark ? [18, 18, 18, 1] : [255, 255, 255, 1], opacity: 1};
  const {color, opacity} = element.parentElement ? behind(element.parentElement) : canvas;
  const style = getComputedStyle(element);
  const isKnown = color !== null && style.backgroundImage === 'none';
  const result = {
    color: isKnown ? over(parse(style.backgroundColor), color) : null,
    opacity: opacity * Number(style.opacity),
  };
  known.set(element, result);
  return result;
}

function luminance(color) {
  const [r, g, b] = color.slice(0, 3).map(value => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function ratio(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

function isSeen(element) {
  const box = element.getBoundingClientRect();
  return box.width > 1 && box.height > 1 && box.right + scrollX > 0 && box.bottom + scrollY > 0
    && element.checkVisibility({visibilityProperty: true});
}

const faults = [];
let looked = 0;

function check(what, element, color, least) {
  looked += 1;
  const {color: below, opacity} = behind(element);
  if (below === null) {
    faults.push(`${what}: stands on an image`);
    return;
  }
  const [r, g, b, a] = parse(color);
  const seen = ratio(over([r, g, b, a * opacity], below), below);
  if (seen < least - 0.005) faults.push(`${what}: contrast ${seen.toFixed(2)}, needs ${least}`);
}

function needed(style) {
  const pixels = parseFloat(style.fontSize);
  return pixels >= 24 || (pixels >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
}

for (const each of document.querySelectorAll('details')) each.open = true;

const silent = 'script, style, noscript, template, title, desc, option';
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const element = node.parentElement, text = node.data.trim();
  if (!text || element.closest(silent) || !isSeen(element)) continue;
  const style = getComputedStyle(element), isSvg = element instanceof SVGElement;
  check(`"${text.slice(0, 40)}"`, element, isSvg ? style.fill : style.color, needed(style));
}

for (const element of document.body.querySelectorAll('*')) {
  if (!isSeen(element)) continue;
  for (const name of ['::before', '::after', '::placeholder', '::marker']) {
    const style = getComputedStyle(element, name);
    const isThere = name === '::placeholder' ? element.placeholder
      : !['none', 'normal', '""'].includes(style.content);
    const what = `${element.tagName}${name} ${style.content}`;
    if (isThere) check(what, element, style.color, needed(style));
  }
  const style = getComputedStyle(element);
  const drawnByBrowser = element.matches('[type=hidden], [type=checkbox], [type=radio]');
  const start = element.outerHTML.slice(0, 60);
  if (element.matches('input, select, textarea, button') && !drawnByBrowser) {
    check(`the text of ${start}`, element, style.color, needed(style));
  }
  if (element.matches('input, select, textarea') && !drawnByBrowser) {
    check(`the border of ${start}`, element.parentElement, style.borderTopColor, 3);
  }
  if (element.matches('svg .series rect')) {
    check(`a bar of ${element.parentElement.className.baseVal}`, element, style.fill, 3);
  }
}

const page = document.documentElement;
if (page.scrollWidth > page.clientWidth) {
  const widest = [...document.body.querySelectorAll('*')]
    .filter(each => each.getBoundingClientRect().right > page.clientWidth + 1)
    .map(each => each.outerHTML.slice(0, 60));
  faults.push(`${page.scrollWidth} pixels wide, the window has ${page.clientWidth}: ${widest[0]}`);
}
if (!looked) faults.push('no text');
return [...new Set(faults)];
"""


def faults(browser: Chrome) -> list[str]:
    """What is hard to see on the page that the browser shows; all ``details`` are opened."""
    found: list[str] = browser.execute_script(_SCRIPT)
    return found
