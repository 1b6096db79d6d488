// What is asked stands in the address after #, so that a link shows the same rows. All else comes from the API.

const JSON_TYPE = "application/json", TOKEN = "raygen-token";
const FORMATS = {
  parquet: ["Parquet", "application/vnd.apache.parquet"],
  png: ["PNG, one grid", "image/png"],
  zip: ["ZIP of PNGs", "application/zip"],
  arrow: ["Arrow stream", "application/vnd.apache.arrow.stream"],
  json: ["JSON", JSON_TYPE],
};
const VERDICTS = { passed: ["✓ Passed its gate", "passed"], failed: ["✗ Failed its gate", "failed"], "no gate": ["No gate was set", ""] };

const $ = (id) => document.getElementById(id);
const { model: models, condition: classes, seed, rows, start, where, steps } = $("ask").elements;
let served = []; // what /v1/models says
let model = null; // the one that is looked at
let ends = []; // the numbers of the rows that a way goes between
let way = []; // the pictures on it, and what they are

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
const show = (place, ...children) => place.replaceChildren(...children);
const short = (digest) => digest.slice(0, 12);
const notice = (text) => show($("notice"), make("p", { className: "notice" }, text));

// Asking

class Problem extends Error {
  constructor({ detail, title, hint = "", status = 0 }) {
    super(detail ?? title ?? `the endpoint answered with status ${status}`);
    Object.assign(this, { hint, status });
  }
}

async function ask(path, accept, body, signal) {
  const headers = { accept }, token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = JSON_TYPE;
  const sent = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
  const answer = await fetch(path, sent).catch((error) => {
    throw error.name === "AbortError" ? error : new Problem({ detail: "the endpoint does not answer", hint: "is it running?" });
  });
  if (answer.ok) return answer;
  const problem = new Problem({ status: answer.status, ...(await answer.json().catch(() => ({}))) });
  if (problem.status === 401 && (await admitted(problem, token))) return ask(path, accept, body, signal);
  throw problem;
}

// A token is asked for once, however many wait for it. Whether there is one now.
let entering = null;
function admitted(problem, tried) {
  if (sessionStorage.getItem(TOKEN) !== tried) return true; // meanwhile
  return (entering ??= new Promise((done) => {
    const door = $("door");
    $("why").textContent = tried ? `That was not it: ${problem.message}.` : "This endpoint answers those who have one.";
    $("token").value = door.returnValue = "";
    door.onclose = () => {
      const entered = door.returnValue === "enter";
      if (entered) sessionStorage.setItem(TOKEN, $("token").value);
      $("forget").hidden = !sessionStorage.getItem(TOKEN);
      entering = null;
      done(entered);
    };
    door.showModal();
  }));
}

// Who asks anew is not told any more what was asked before. What goes wrong is told in words, until it goes well.
const pending = {}, wrong = {};
async function latest(name, place, work) {
  pending[name]?.abort();
  const mine = (pending[name] = new AbortController());
  place.ariaBusy = "true";
  try {
    await work(mine.signal);
    delete wrong[name];
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    if (error.status === 409 && (await swapped().catch(() => false))) return refresh();
    const again = make("button", { type: "button", onclick: model ? refresh : open }, "Try again");
    complain(name, error.message, error.hint, ...(error.status === 422 ? [] : [again]));
  } finally {
    if (pending[name] === mine) place.ariaBusy = "false";
    show($("problem"), ...Object.values(wrong));
  }
}

function complain(name, what, hint = "", ...more) {
  wrong[name] = make("div", { className: "problem" }, make("p", {}, what), make("p", { className: "soft" }, hint), ...more);
}

// Rows of two generators are never shown side by side: it is said which one is to answer, and when it no longer does.
async function made(path, accept, body, signal) {
  const answer = await ask(path, accept, { ...body, digest: model.digest }, signal);
  if (answer.headers.has("raygen-current")) throw new Problem({ status: 409, detail: "another generator answers now" });
  return answer;
}

async function swapped() {
  const { id, digest } = model;
  await list();
  model = served.find((one) => one.id === id) ?? model;
  if (model.digest === digest) return false;
  judge();
  notice(`Another generator answers now: ${short(model.digest)}, and no longer ${short(digest)}. Its rows are others.`);
  return true;
}

async function list(signal) {
  served = (await (await ask("v1/models", JSON_TYPE, null, signal)).json()).data;
  show(models, ...served.map(({ id }) => new Option(id)));
}

// What is asked

function asked() {
  const body = { model: model.id, rows: rows.valueAsNumber, start: start.valueAsNumber, seed: seed.valueAsNumber };
  if (classes.value) body.condition = JSON.parse(classes.value);
  if (model.kind === "tables" && where.value.trim()) body.where = JSON.parse(where.value);
  return body;
}

function valid() {
  let said = {};
  try {
    said = JSON.parse(where.value.trim() || "{}");
  } catch {
    said = null;
  }
  const fine = model.kind !== "tables" || (said && typeof said === "object" && !Array.isArray(said));
  where.setCustomValidity(fine ? "" : 'It is no JSON object, as in {"age": [18, 25]}.');
  const field = [...$("ask").elements].find((one) => !one.validity.valid);
  for (const name of ["form", "rows"]) delete wrong[name]; // what was asked before
  if (field) complain("form", `${field.labels[0].firstChild.textContent.trim()}: ${field.validationMessage}`);
  show($("problem"), ...Object.values(wrong));
  return !field;
}

const spelt = (value) => (value === null ? "none" : String(value));

// All that has a name in the form, the ends of the way, and whose rows they are.
function remember() {
  const said = [...new FormData($("ask"))].filter(([, value]) => value);
  if (ends.length) said.push(["between", ends.join("-")]);
  history.replaceState(null, "", `#${new URLSearchParams([...said, ["generator", short(model.digest)]])}`);
}

function recall() {
  const said = new URLSearchParams(location.hash.slice(1)), meant = said.get("generator"), value = said.get("condition");
  choose(served.find(({ id }) => id === said.get("model")) ?? served[0]);
  for (const field of [seed, rows, start, where, steps]) field.value = said.get(field.name) ?? field.defaultValue;
  const known = [...classes.options].find((one) => [one.value, one.text].includes(value));
  classes.value = known?.value ?? "";
  ends = (said.get("between") ?? "").split("-").filter((end) => /^\d{1,15}$/.test(end)).slice(0, 2).map(Number);
  if (meant && meant !== short(model.digest))
    notice(`This link was made with the generator ${meant}. Now ${short(model.digest)} answers, whose rows are others.`);
}

// A model

function choose(one) {
  [model, ends] = [one, []];
  models.value = model.id;
  document.title = `${model.id} · raygen`;
  const known = model.classes.filter((value) => value !== null); // null asks for any
  show(classes, new Option("any", ""), ...known.map((value) => new Option(spelt(value), JSON.stringify(value))));
  $("column").textContent = model.condition ?? "";
  $("classes").hidden = !model.condition;
  $("where").hidden = model.kind !== "tables";
  $("between").hidden = !model.interpolates;
  const formats = Object.entries(FORMATS).filter(([name]) => model.kind === "images" || !["png", "zip"].includes(name));
  show($("format"), ...formats.map(([name, [title]]) => new Option(title, name)));
  judge();
}

function judge() {
  const { verdict, family, created, canary, digest, summary } = model;
  const [lead, tone] = VERDICTS[verdict] ?? [verdict, ""];
  const since = new Date(created * 1000).toLocaleDateString("en", { dateStyle: "medium" });
  const lines = [`${family}, promoted ${since}`];
  if (canary) lines.push(`${canary.percent} % of requests are answered by a canary, ${short(canary.digest)}`);
  const code = make("p", {}, make("code", { title: digest }, short(digest)));
  show($("verdict"), make("p", { className: "lead" }, lead), ...lines.map((line) => make("p", {}, line)), code);
  $("verdict").className = `verdict ${tone}`;
  $("verdict").hidden = false;
  show($("summary"), ...summary.map((line) => make("li", {}, line)));
  const heads = [head("Metric"), head("Synthetic", "number"), head("Real", "number"), head("What it says", "says")];
  const caption = make("caption", {}, "Beside what real rows that were held out reach; with 95 % intervals");
  show($("figures"), table(caption, heads, model.figures.map(figure)));
  $("quality").hidden = !model.figures.length && !summary.length;
}

function figure({ title, about, value, interval, ceiling, better }) {
  const arrow = make("span", { role: "img", ariaLabel: `${better} is better` }, better === "higher" ? "↑" : "↓");
  const range = interval ? [make("small", {}, interval.map((end) => rounded(end, interval)).join(" to "))] : [];
  const found = make("td", { className: "number" }, rounded(value, interval), ...range);
  const real = make("td", { className: "number" }, rounded(ceiling, interval));
  return [make("th", { scope: "row" }, `${title}\u00a0`, arrow), found, real, make("td", { className: "says" }, about)];
}

// With as many decimals as its interval bears.
function rounded(value, interval) {
  if (value === null) return "–";
  const spread = interval ? interval[1] - interval[0] : 0;
  const [size, digits] = spread > 0 ? [spread, 2] : [Math.abs(value) || 1, 3];
  const decimals = value ? Math.min(8, Math.max(0, digits - 1 - Math.floor(Math.log10(size)))) : 0;
  const text = value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return text.replace(/^-(?=[0.]+$)/, "").replace("-", "−");
}

const head = (text, className = "", ...more) => make("th", { scope: "col", className }, text, ...more);
const table = (caption, heads, body) =>
  make("table", {}, caption, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body.map((cells) => make("tr", {}, ...cells))));

// Rows

function refresh() {
  if (!valid()) return;
  remember();
  const body = asked();
  $("earlier").disabled = !body.start;
  $("status").textContent = "";
  command();
  go();
  latest("rows", $("rows"), async (signal) => {
    const { rows: found } = await (await made("v1/generate", JSON_TYPE, body, signal)).json();
    const last = body.start + body.rows - 1, some = found.length > 1 ? `rows ${whole(body.start)} to ${whole(last)}` : `row ${whole(last)}`;
    const of = "condition" in body ? `, ${model.condition} ${spelt(body.condition)}` : "";
    $("title").textContent = `${model.id}${of}: ${some} of seed ${body.seed}`;
    show($("rows"), model.kind === "images" ? pictures(found, body.start) : cells(found, body.start));
    $("made").hidden = $("take").hidden = false;
    mark();
  });
}

const picture = (row) => Object.values(row).find((value) => String(value).startsWith("data:image/"));
const label = (row) => (model.condition ? `, ${model.condition} ${spelt(row[model.condition])}` : "");

function pictures(found, first) {
  const list = make("ul", { className: "pictures" });
  for (const [at, row] of found.entries()) {
    const alt = `row ${first + at}${label(row)}`, image = make("img", { src: picture(row), alt, title: alt });
    const button = make("button", { type: "button", value: first + at, onclick: () => pick(first + at) }, image);
    list.append(make("li", {}, model.interpolates ? button : image));
    if (!at) image.onload = () => $("shown").classList.toggle("large", image.naturalWidth >= 100);
  }
  list.onkeydown = ({ key }) => {
    const all = [...list.querySelectorAll("button")], step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (step) all[all.indexOf(document.activeElement) + step]?.focus();
  };
  return list;
}

const whole = new Intl.NumberFormat("en", { useGrouping: "min2" }).format;
const real = new Intl.NumberFormat("en", { useGrouping: "min2", maximumSignificantDigits: 6 }).format;

function cells(found, first) {
  const columns = Object.entries(model.columns);
  const heads = columns.map(([name, type]) => head(name, /^(u?int|float|double|half)/.test(type) ? "number" : "", make("small", {}, type)));
  const body = found.map((row, at) => [make("th", { scope: "row" }, whole(first + at)), ...columns.map(([name]) => cell(row[name]))]);
  const caption = make("caption", { className: "hear" }, $("title").textContent);
  return make("div", { className: "wide tall", tabIndex: 0, role: "region", ariaLabel: "Rows" }, table(caption, [head("Row"), ...heads], body));
}

function cell(value) {
  if (value === null) return make("td", { className: "soft" }, "null");
  if (typeof value === "number") return make("td", { className: "number" }, (Number.isInteger(value) ? whole : real)(value).replace("-", "−"));
  return make("td", {}, typeof value === "object" ? JSON.stringify(value) : String(value));
}

// The way between two rows

function pick(row) {
  ends = ends.includes(row) ? ends.filter((end) => end !== row) : [...ends.slice(-1), row];
  remember();
  mark();
  go();
}

function mark() {
  for (const button of $("rows").querySelectorAll("button")) {
    const at = ends.indexOf(Number(button.value));
    button.ariaPressed = at >= 0;
    button.dataset.end = "AB"[at] ?? "";
  }
}

function go() {
  const there = model.interpolates && ends.length === 2;
  $("way").hidden = !there;
  if (!there) return pending.way?.abort();
  const { model: id, seed, condition } = asked(), [from, to] = ends, count = steps.valueAsNumber;
  latest("way", $("way"), async (signal) => {
    const { rows: found } = await (await made("v1/interpolate", JSON_TYPE, { model: id, between: [from, to], steps: count, seed, condition }, signal)).json();
    way = found.map((row, at) => [picture(row), `step ${at + 1} of ${count} from row ${from} to row ${to}${label(row)}`]);
    show($("strip"), ...way.map(([src], at) => make("img", { src, alt: "", onclick: () => stand(at) })));
    $("position").max = count - 1;
    stand($("position").valueAsNumber);
  });
}

function stand(at) {
  const [src, alt] = way[at];
  Object.assign($("here"), { src, alt, title: alt });
  Object.assign($("position"), { value: at, ariaValueText: alt });
  [...$("strip").children].forEach((one, number) => one.classList.toggle("on", number === at));
}

// Taking rows away

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const file = () => `${model.id}-seed${seed.value}-row${start.value}.${$("format").value}`;

function command() {
  const type = FORMATS[$("format").value][1], url = new URL("v1/generate", location.href).href;
  const token = sessionStorage.getItem(TOKEN) ? ['-H "Authorization: Bearer $RAYGEN_TOKEN"'] : [];
  const lines = [`curl -f -o ${quoted(file())}`, ...token, `-H 'Content-Type: ${JSON_TYPE}' -H 'Accept: ${type}'`, `-d ${quoted(JSON.stringify(asked()))}`, quoted(url)];
  $("curl").textContent = lines.join(" \\\n  ");
}

function download() {
  const name = file(), type = FORMATS[$("format").value][1];
  if (!valid()) return;
  latest("download", $("download"), async (signal) => {
    const href = URL.createObjectURL(await (await made("v1/generate", type, asked(), signal)).blob());
    make("a", { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000); // a slow disk has begun by then
    $("status").textContent = `${name} is downloaded.`;
  });
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
  } catch {
    getSelection().selectAllChildren($("curl"));
    document.execCommand("copy"); // without https there is no clipboard, but there is this
  }
  $("status").textContent = "The command is copied. It takes the token from RAYGEN_TOKEN.";
}

// Beginning

function open() {
  latest("models", $("ask"), async (signal) => {
    await list(signal);
    recall();
    refresh();
  });
}

function change(field, value) {
  field.value = Math.max(0, value);
  refresh();
}

let waiting;
$("ask").oninput = steps.oninput = () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => model && refresh(), 250);
};
$("ask").onsubmit = (event) => event.preventDefault();
models.onchange = () => {
  choose(served.find(({ id }) => id === models.value));
  [start.value, where.value] = [0, ""];
  show($("notice"));
};
$("another").onclick = () => change(seed, Math.floor(Math.random() * 1_000_000));
$("earlier").onclick = () => change(start, start.valueAsNumber - rows.valueAsNumber);
$("later").onclick = () => change(start, start.valueAsNumber + rows.valueAsNumber);
$("position").oninput = () => stand($("position").valueAsNumber);
$("format").onchange = command;
$("download").onclick = download;
$("copy").onclick = copy;
$("forget").hidden = !sessionStorage.getItem(TOKEN);
$("forget").onclick = () => {
  sessionStorage.removeItem(TOKEN);
  location.reload();
};
addEventListener("hashchange", () => model && (recall(), refresh()));
open();
