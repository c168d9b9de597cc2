// The playground: choose a model, fill in its form, read its answer and where the time went.
"use strict";

const page = document.currentScript.dataset;
const at = (id) => document.getElementById(id);
let api, chosen;

async function start() {
  api = await (await fetch(page.document)).json();
  const buttons = [...document.querySelectorAll("[data-route]")];
  for (const button of buttons) button.addEventListener("click", () => choose(button, buttons));
  at("form").addEventListener("submit", ask);
  if (buttons.length) choose(buttons.find((button) => "#" + button.dataset.model === location.hash) || buttons[0], buttons);
}

function choose(button, buttons) {
  for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
  const operation = api.paths[button.dataset.route].post;
  const content = operation.requestBody.content["application/json"];
  chosen = { name: button.dataset.model, route: button.dataset.route };
  history.replaceState(null, "", "#" + chosen.name);
  at("title").textContent = operation.summary;
  at("about").textContent = `POST ${chosen.route}`;
  at("fields").replaceChildren(...form.build(resolve(content.schema), content.example || {}));
  at("empty").hidden = false;
  at("result").hidden = true;
  at("demo").hidden = true;
  describe(chosen);
}

function resolve(schema) {
  return schema.$ref ? schema.$ref.split("/").slice(1).reduce((place, name) => place[name], api) : schema;
}

// Say what the model is, before anything is asked.
async function describe(model) {
  const answer = await fetch(`${page.models}/${model.name}`);
  if (model !== chosen) return;
  const status = await answer.json();
  if (!answer.ok) {
    at("about").textContent = `POST ${model.route} · ${status.error.message}`;
    return;
  }
  const parts = [`POST ${model.route}`, status.checkpoint, status.device, status.dtype, status.state];
  at("about").textContent = parts.filter(Boolean).join(" · ");
  at("demo").hidden = !status.demo;
}

async function ask(event) {
  event.preventDefault();
  const send = at("form").querySelector(".send");
  send.disabled = true;
  try {
    form.faults(at("fields"), {});
    const body = JSON.stringify(form.read(at("fields")));
    const headers = { "Content-Type": "application/json" };
    const started = performance.now();
    const response = await fetch(page.root + chosen.route, { method: "POST", headers, body });
    const text = await response.text();
    show(response, JSON.parse(text), performance.now() - started, body);
  } catch (error) {
    say(`No answer: ${error.message}`, true);
    at("facts").replaceChildren();
    at("raw").textContent = at("shell").textContent = "";
  } finally {
    send.disabled = false;
  }
}

function show(response, answer, ms, body) {
  form.faults(at("fields"), (answer.error && answer.error.fields) || {});
  say(response.ok ? short(answer) : answer.error.message, !response.ok);
  at("raw").textContent = JSON.stringify(answer, null, 2);
  const quoted = body.replaceAll("'", "'\\''");
  at("shell").textContent = `curl -X POST ${location.origin}${page.root}${chosen.route} -H 'Content-Type: application/json' -d '${quoted}'`;
  const model = response.headers.get("X-Model") || "";
  if (model.includes("demo=true")) at("demo").hidden = false;
  facts({
    Status: `${response.status}${response.ok ? "" : " " + answer.error.code}`,
    Time: `${ms.toFixed(0)} ms, ${timing(response.headers.get("Server-Timing") || "")}`.replace(/, $/, ""),
    Score: typeof answer.score === "number" ? answer.score.toFixed(4) : "",
    Model: model,
    Request: response.headers.get("X-Request-ID"),
  });
}

function say(text, bad) {
  at("answer").textContent = text;
  at("answer").classList.toggle("bad", bad);
  at("empty").hidden = true;
  at("result").hidden = false;
}

// The answer as a person would read it: the text, the summaries, or the first numbers of a vector.
function short(answer) {
  const results = answer.results ?? answer;
  if (typeof results === "string") return results || "(no answer in the text)";
  if (!Array.isArray(results)) return JSON.stringify(results, null, 2);
  if (results.every((item) => typeof item === "number")) {
    return `${results.slice(0, 6).map((number) => number.toFixed(4)).join(", ")}, … (${results.length} numbers)`;
  }
  return results.map((item) => item.summary_text ?? JSON.stringify(item)).join("\n");
}

// "queue;dur=1.2, inference;dur=30" as "queue 1 ms, inference 30 ms".
function timing(header) {
  const parts = header.split(",").map((part) => part.trim().split(";dur=")).filter((part) => part.length === 2);
  return parts.map(([name, ms]) => `${name} ${Number(ms).toFixed(1)} ms`).join(", ");
}

function facts(pairs) {
  const shown = Object.entries(pairs).filter(([, value]) => value);
  const rows = shown.flatMap(([name, value]) => [form.element("dt", { textContent: name }), form.element("dd", { textContent: value })]);
  at("facts").replaceChildren(...rows);
}

start().catch((error) => say(`This page could not start: ${error.message}`, true));
