// Turns in and out as OTLP JSON files: export of a turn, a session or a selection; import by a button or by dropping.
import { address, send } from "./api.js";
import { $, h, say } from "./dom.js";
import { count, number, size } from "./format.js";

/** A link that downloads what the parameters select. */
export function exportLink(parameters, words) {
  return h("a", { class: "button quiet", href: address("export", parameters), download: "", dataset: { key: "export" }, title: "As OTLP JSON: any OpenTelemetry backend and this page read it" }, words);
}

/** Files that are dropped anywhere, or chosen with the button, are imported; then `done` is called. */
export function acceptFiles(done) {
  const input = $("import-file");
  $("import").addEventListener("click", () => input.click());
  input.addEventListener("change", async () => {
    await take([...input.files], done);
    input.value = "";
  });
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!holdsFiles(event)) return;
    event.preventDefault();
    take([...event.dataTransfer.files], done);
  });
}

async function take(files, done) {
  const results = [];
  for (const file of files) {
    say(`importing ${file.name}, ${size(file.size)}…`);
    try {
      const { spans, logs, rejected, reason } = await send("import", file);
      const found = [count(spans, "span"), logs && count(logs, "log line"), rejected && `${number(rejected)} rejected (${reason})`].filter(Boolean);
      results.push(`${file.name}: ${found.join(", ")}`);
    } catch (error) {
      results.push(`${file.name}: ${error.message}`);
    }
  }
  say(results.join("; "));
  await done();
}
