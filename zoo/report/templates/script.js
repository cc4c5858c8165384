"use strict";
// The theme: the system's until the switch is used.
const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)"), theme = document.querySelector(".theme");
const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
theme.hidden = false;
showTheme();
dark.addEventListener("change", showTheme);
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});

// Tables that sort. What has no key comes last, whichever way.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], said = table.querySelector(".unseen");
  const key = (row, column) => row.cells[column].dataset.key;
  const numeric = (column) => [...body.rows].every((row) => key(row, column) === undefined || !Number.isNaN(Number(key(row, column))));
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", (event) => {
    const first = event.currentTarget.dataset.first, now = head.getAttribute("aria-sort");
    const way = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
    const sign = way === "ascending" ? 1 : -1, numbers = numeric(column);
    const rows = [...body.rows].sort((a, b) => {
      const one = key(a, column), other = key(b, column);
      if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
      return sign * (numbers ? one - other : one.localeCompare(other, undefined, { numeric: true }));
    });
    body.append(...rows);
    heads.forEach((each) => each.setAttribute("aria-sort", each === head ? way : "none"));
    said.textContent = ` Sorted by ${head.textContent.trim()}, ${way}.`;
  }));
}

// Curves: the numbers of the epoch under the pointer.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg[role=img]"), rule = chart.querySelector(".rule");
  const circles = [...svg.querySelectorAll("circle")], told = [...chart.querySelectorAll("output")];
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * 400;
    const near = circles.reduce((a, b) => Math.abs(b.cx.baseVal.value - x) < Math.abs(a.cx.baseVal.value - x) ? b : a);
    circles.forEach((each) => each.classList.toggle("on", each.dataset.epoch === near.dataset.epoch));
    rule.setAttribute("d", `M${near.cx.baseVal.value},12 V206`);
    rule.style.visibility = "visible";
    for (const output of told) {
      const here = svg.querySelector(`[data-line="${output.dataset.line}"] circle[data-epoch="${near.dataset.epoch}"]`);
      output.textContent = here ? here.dataset.text : "none";
    }
  });
  svg.addEventListener("pointerleave", () => {
    circles.forEach((each) => each.classList.remove("on"));
    rule.style.visibility = "hidden";
    for (const output of told) output.textContent = output.dataset.last;
  });
}

for (const button of document.querySelectorAll(".copy")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
