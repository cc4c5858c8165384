// What a page can be asked about itself; each function names the elements that fail. Evaluated by the fixture `show` in conftest.py.
({
  overflowing() {
    const width = document.scrollingElement.clientWidth, found = [];
    if (document.scrollingElement.scrollWidth > width) found.push(`the page: ${document.scrollingElement.scrollWidth} > ${width}`);
    for (const each of document.body.querySelectorAll("*")) {
      const box = each.getBoundingClientRect();
      if (box.width && (box.right > width + 0.5 || box.left < -0.5)) found.push(`${this.named(each)}: ${box.left} to ${box.right}`);
    }
    return found;
  },
  faint(least) {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const known = new Map();
    const rgba = (colour) => {
      if (!known.has(colour)) {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        known.set(colour, [...context.getImageData(0, 0, 1, 1).data]);
      }
      return known.get(colour);
    };
    const over = (top, below) => [0, 1, 2].map((i) => (top[i] * top[3] + below[i] * (255 - top[3])) / 255);
    const background = (each) => {
      if (!each) return [255, 255, 255];
      const own = rgba(getComputedStyle(each).backgroundColor);
      return own[3] === 255 ? own.slice(0, 3) : over(own, background(each.parentElement));
    };
    const light = (colour) => {
      const [r, g, b] = colour.map((c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let seen = 0;
    while (walker.nextNode()) {
      const each = walker.currentNode.parentElement, style = getComputedStyle(each);
      if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(each.tagName)) continue;
      if (!each.checkVisibility({ visibilityProperty: true }) || each.getBoundingClientRect().width <= 1) continue;
      seen += 1;
      const behind = background(each), text = over(rgba(each instanceof SVGElement ? style.fill : style.color), behind);
      const [high, low] = [light(text), light(behind)].sort((a, b) => b - a), ratio = (high + 0.05) / (low + 0.05);
      if (ratio < least) found.add(`${this.named(each)}: ${ratio.toFixed(2)}`);
    }
    return seen ? [...found] : ["there is no text"];
  },
  unnamed() {
    const pictures = [...document.images].filter((each) => !each.alt.trim() || !each.naturalWidth);
    const controls = [...document.querySelectorAll("a, button, input, select, textarea, [role=img]")].filter(
      (each) => !(each.textContent.trim() || each.ariaLabel || each.title || each.labels?.length || each.getAttribute("aria-labelledby")));
    return [...pictures, ...controls].map(this.named);
  },
  headings() {
    const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((each) => [Number(each.tagName[1]), each.textContent]);
    const found = levels.filter(([level], i) => level > (i ? levels[i - 1][0] : 0) + 1).map(([level, text]) => `h${level} ${text}`);
    return levels.filter(([level]) => level === 1).length === 1 ? found : [...found, "there must be one h1"];
  },
  ids() {
    const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
    const links = [...document.querySelectorAll("a[href^='#']")].map((each) => each.getAttribute("href").slice(1));
    const named = [...document.querySelectorAll("[aria-labelledby]")].map((each) => each.getAttribute("aria-labelledby"));
    return [...ids.filter((id, i) => ids.indexOf(id) !== i), ...[...links, ...named].filter((id) => !ids.includes(id))];
  },
  named: (each) => `${each.tagName.toLowerCase()}.${each.getAttribute("class") ?? ""} ${each.textContent.trim().slice(0, 40)}`,
})
