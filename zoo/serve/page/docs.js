// What can be asked, out of /openapi.json: nothing is loaded from elsewhere.
"use strict";

const make = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

let all;
const named = (schema) => (schema && schema.$ref ? all.components.schemas[schema.$ref.split("/").pop()] : schema) || {};

// An example of a schema: what its fields hold, in the shape of the answer.
function example(given, depth = 0) {
  const schema = named(given);
  if (schema.anyOf) return example(schema.anyOf[0], depth);
  if (schema.enum) return schema.enum[0];
  if (depth > 6) return "...";
  if (schema.type === "array") return [example(schema.items, depth + 1)];
  if (schema.type === "object" || schema.properties) {
    return Object.fromEntries(Object.entries(schema.properties || {}).map(([name, each]) => [name, example(each, depth + 1)]));
  }
  return { integer: 0, number: 0.5, boolean: true, string: "..." }[schema.type] ?? null;
}

function list(title, pairs) {
  const part = document.createDocumentFragment(), found = make("dl");
  for (const [name, text] of pairs) {
    const term = make("dt");
    term.append(make("code", "", name));
    found.append(term, make("dd", "", text));
  }
  part.append(make("h3", "", title), found);
  return part;
}

function bounds(schema) {
  return [schema.enum && schema.enum.join(", "), schema.minimum !== undefined && `at least ${schema.minimum}`, schema.maximum !== undefined && `at most ${schema.maximum}`,
    schema.default !== undefined && `default ${schema.default}`].filter(Boolean).join("; ");
}

function curl(method, path, content) {
  const guarded = all.components.securitySchemes ? ' -H "Authorization: Bearer $ZOO_TOKEN"' : "";
  const base = `curl${guarded} ${location.origin}${path}`;
  const lines = [];
  if (content["application/json"]) lines.push(`${base} -H "Content-Type: application/json" -d '${JSON.stringify(content["application/json"].example || { text: "..." })}'`);
  if (content["image/jpeg"]) lines.push(`${base} -H "Content-Type: image/jpeg" --data-binary @photo.jpg`, `${base} -F image=@photo.jpg`);
  return lines.length ? lines.join("\n") : base;
}

function article(path, method, operation) {
  const part = make("article"), title = make("h2");
  title.append(make("span", "method", method.toUpperCase()), make("code", "", path));
  part.append(title, make("p", "", operation.description || operation.summary));
  if (operation.parameters) part.append(list("Parameters", operation.parameters.map((each) => [each.name, [each.description, bounds(each.schema) && `(${bounds(each.schema)})`].filter(Boolean).join(" ")])));
  const content = (operation.requestBody || {}).content || {};
  const kinds = Object.keys(content), pictures = kinds.filter((kind) => kind.startsWith("image/") || kind.endsWith("octet-stream"));
  const bodies = [[pictures.join(", "), "the bytes of a picture"], ["multipart/form-data", "a file called image"], ["application/json", '{"text": "..."}']];
  if (kinds.length) part.append(list("Body", bodies.filter(([kind]) => kind && kind.split(", ").every((each) => kinds.includes(each)))));
  const code = make("pre");
  code.append(make("code", "", curl(method, path, content)));
  part.append(make("h3", "", "By hand"), code);
  const json = ((operation.responses["200"] || {}).content || {})["application/json"];
  if (json) {
    const shown = make("pre");
    shown.append(make("code", "", JSON.stringify(example(json.schema), null, 2)));
    part.append(make("h3", "", "Answer"), shown);
  }
  const refused = Object.entries(operation.responses).filter(([status]) => status >= "400");
  if (refused.length) part.append(list("Refused", refused.map(([status, each]) => [status, each.description])));
  return part;
}

fetch("/openapi.json", { credentials: "same-origin" }).then((answer) => answer.json()).then((found) => {
  all = found;
  document.getElementById("title").textContent = all.info.title;
  document.getElementById("about").textContent = all.info.description;
  for (const [path, methods] of Object.entries(all.paths)) {
    for (const [method, operation] of Object.entries(methods)) document.getElementById("operations").append(article(path, method, operation));
  }
}).catch(() => { document.getElementById("about").textContent = "The server does not answer."; });
