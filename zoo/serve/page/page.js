// The page: asks /v1/... of its own server and shows what it says. Text from anywhere is only ever put in as text.
"use strict";

const $ = (id) => document.getElementById(id);
const KINDS = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"];
const TINY = 32; // pixels below which a picture is shown as squares, not blurred
let about, asking, shownUrl;

if (location.search) history.replaceState(null, "", location.pathname); // the token has become a cookie: it need not stay in sight

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function sharp(image) {
  image.addEventListener("load", () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= TINY));
  return image;
}

function show(id, whether = true) { $(id).hidden = !whether; }

function fail(message) {
  $("problem").textContent = message;
  show("problem");
  $("status").textContent = "";
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is zoo serve still running?");
  }
  const said = await answer.json().catch(() => null);
  if (answer.ok && said) return said;
  const wrong = said && said.error;
  if (!wrong) throw new Error(`The server answers ${answer.status}.`);
  throw new Error([wrong.message, wrong.got && `Got ${wrong.got}.`, wrong.expected && `Expected ${wrong.expected}.`].filter(Boolean).join(" "));
}

function bar(name, share, number) {
  const line = make("li"), track = make("div", "track"), fill = make("div", "fill");
  track.append(fill);
  line.append(make("span", "name", name), make("span", "number", number), track);
  requestAnimationFrame(() => { fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`; });
  return line;
}

function card(result, place) {
  const line = make("li"), image = sharp(make("img"));
  image.alt = result.text || `Picture of row ${result.row}`;
  image.loading = place < 24 ? "eager" : "lazy";
  image.src = result.picture;
  line.append(image, make("span", "words", result.text || `row ${result.row}`), make("span", "number", result.score.toFixed(3)));
  return line;
}

const body = (asked) => asked.text !== undefined
  ? { headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text: asked.text }) }
  : { headers: { "Content-Type": KINDS.includes(asked.file.type) ? asked.file.type : "application/octet-stream" }, body: asked.file };

async function search(asked, signal) {
  const both = await Promise.all(["image", "text"].map((to) => about.finds.includes(to) && !(asked.text !== undefined && to === "text" && about.finds.includes("image"))
    ? ask(`/v1/search?to=${to}&k=${to === "image" ? 12 : 5}`, { method: "POST", signal, ...body(asked) }) : null));
  const [pictures, texts] = both.map((each) => each && each.results);
  const query = $("query");
  query.replaceChildren();
  if (asked.file) {
    const image = sharp(make("img"));
    image.alt = "Your picture";
    image.src = shownUrl;
    query.append(image, make("span", "quiet", asked.file.name || "Your picture"));
  }
  show("pictures", Boolean(pictures));
  $("picture-results").replaceChildren(...(pictures || []).map(card));
  show("texts", Boolean(texts));
  $("text-results").replaceChildren(...(texts || []).map((each) => bar(each.text || `row ${each.row}`, each.score, each.score.toFixed(3))));
  show("near");
  $("status").textContent = asked.text !== undefined ? `What is nearest to “${asked.text}”, out of ${about.rows.toLocaleString()} rows` : `Out of ${about.rows.toLocaleString()} rows`;
}

function look(url, name, pressed) {
  $("seen").src = url;
  $("looking").textContent = name;
  for (const each of $("maps").children) each.setAttribute("aria-pressed", String(each === pressed));
}

function choice(name, url) {
  const button = make("button"), image = sharp(make("img"));
  button.type = "button";
  image.alt = "";
  image.src = url;
  button.append(image, make("span", "", name));
  button.addEventListener("click", () => look(url, name, button));
  return button;
}

async function classify(asked, signal) {
  const said = await ask(`/v1/predict?k=${Math.min(5, about.classes.length)}&attention=true`, { method: "POST", signal, ...body(asked) });
  $("classes").replaceChildren(...said.classes.map((each) => bar(each.name, each.probability, `${(100 * each.probability).toFixed(1)} %`)));
  const best = said.classes[0];
  const maps = said.attention.map((each) => choice(each.stage === null ? `${each.name}: ${best.name}` : `Stage ${each.stage}: ${each.name}`, each.picture));
  const plain = choice("Your picture", shownUrl);
  $("maps").replaceChildren(plain, ...maps);
  look(shownUrl, asked.file.name || "Your picture", plain);
  $("seen").alt = "Your picture";
  show("where", maps.length > 0);
  show("said");
  $("status").textContent = `${best.name}, ${(100 * best.probability).toFixed(1)} %`;
}

async function answer(asked) {
  if (asking) asking.abort();
  const mine = asking = new AbortController();
  show("problem", false);
  $("status").textContent = asked.file ? "Looking at the picture…" : "Searching…";
  document.querySelector("main").setAttribute("aria-busy", "true");
  try {
    if (asked.file) {
      if (asked.file.size > about.upload) throw new Error(`The picture has ${(asked.file.size / 1e6).toFixed(1)} MB; at most ${about.upload / 1e6} MB are read.`);
      const old = shownUrl;
      shownUrl = URL.createObjectURL(asked.file);
      if (old) setTimeout(() => URL.revokeObjectURL(old), 1000);
    }
    await (about.kind === "classifier" ? classify : search)(asked, mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
  } finally {
    if (asking === mine) document.querySelector("main").removeAttribute("aria-busy");
  }
}

const file = (given) => { if (given) answer({ file: given }); };

async function begin() {
  try {
    about = await ask("/v1/about");
  } catch (error) {
    fail(error.message);
    return;
  }
  document.title = `${about.run} · zoo serve`;
  $("run").textContent = about.run;
  const rows = `${about.rows.toLocaleString()} rows to search`;
  $("about").textContent = about.kind === "classifier" ? `a classifier of ${about.classes.length} classes` : `a joint embedding, ${rows}`;
  $("most").textContent = `, up to ${about.upload / 1e6} MB`;
  show("words", about.reads.includes("text"));
  show("drop", about.reads.includes("image"));
  $("text").maxLength = about.text;
  if (about.reads.includes("text") && about.examples.length) {
    for (const text of about.examples) {
      const chip = make("button", "", text);
      chip.type = "button";
      chip.addEventListener("click", () => { $("text").value = text; answer({ text }); });
      $("examples").append(chip);
    }
    show("examples");
  }
  $("words").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (text) answer({ text });
  });
  if (!about.reads.includes("image")) return;
  $("file").addEventListener("change", (event) => { file(event.target.files[0]); event.target.value = ""; });
  document.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (pasted) { event.preventDefault(); file(pasted); }
  });
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files.length) file(event.dataTransfer.files[0]);
    else fail("What was dropped is no file: save the picture first, or copy and paste it.");
  });
}

begin();
