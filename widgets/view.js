// One Bokeh document, kept in step with the kernel by numbered patches.
//
// kernel -> view   {kind: "patch", seq, patch, buffers}      to every view; applied in order of seq
//                  {kind: "snapshot", view, seq, doc}        to the view that asked
// view -> kernel   {kind: "hello", view, seq, visible}       at the start and after a gap: asks for a snapshot if seq is not the newest
//                  {kind: "seen", view, seq, visible}        every other second while patches arrive, and when visibility changes
//                  {kind: "bye", view}                       the view is gone
//
// Nothing is sent back of what the document holds, and nothing is fetched from anywhere.

const PAGE = "__workbench_bokehjs__";
const SEEN_MS = 2000;
const BACKLOG = 100;

// BokehJS comes gzipped from the installed bokeh, once per page and version.
async function bokehjs(loader) {
  const version = loader.get("version");
  const loaded = (window[PAGE] ??= {});
  loaded[version] ??= (async () => {
    if (window.Bokeh?.version === version) return window.Bokeh;
    const packed = loader.get("script");
    const bytes = new Uint8Array(packed.buffer, packed.byteOffset, packed.byteLength);
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.appendChild(script);
    if (window.Bokeh?.version !== version) throw new Error(`BokehJS ${version} did not load`);
    return window.Bokeh;
  })();
  return loaded[version];
}

// The page's own colours and letters, whatever its theme; resolved by the browser, since a theme's variables may refer to others.
function inks(el) {
  const probe = document.createElement("span");
  el.appendChild(probe);
  const colour = (name, otherwise) => {
    probe.style.color = `var(${name}, ${otherwise})`;
    return getComputedStyle(probe).color;
  };
  const found = {
    text: colour("--jp-ui-font-color1", "#222"),
    faint: colour("--jp-ui-font-color2", "#666"),
    line: colour("--jp-border-color1", "#bbb"),
    grid: colour("--jp-border-color2", "#e0e0e0"),
    paper: colour("--jp-layout-color1", "#fff"),
    font: getComputedStyle(el).fontFamily,
  };
  probe.remove();
  return found;
}

// Models of this page only: the kernel's document knows no theme.
function dress(doc, el) {
  const { text, faint, line, grid, paper, font } = inks(el);
  for (const model of doc.all_models) {
    if (model.type.endsWith("Axis")) {
      model.setv({
        axis_label_text_color: text, axis_label_text_font: font, major_label_text_color: faint, major_label_text_font: font,
        axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null,
      });
    } else if (model.type === "Grid") {
      if (model.grid_line_color !== null) model.setv({ grid_line_color: grid });
    } else if (model.type === "Title") {
      model.setv({ text_color: text, text_font: font });
    } else if (model.type === "Legend") {
      model.setv({ label_text_color: text, label_text_font: font, background_fill_color: paper, border_line_color: null });
    } else if (model.type === "ColorBar") {
      model.setv({ title_text_color: text, title_text_font: font, major_label_text_color: faint, major_label_text_font: font });
    } else if (model.type === "Figure" || model.type === "Plot") {
      model.setv({ background_fill_color: null, border_fill_color: null, outline_line_color: null });
    }
  }
}

async function render({ model, el }) {
  const view = crypto.randomUUID?.() ?? Math.random().toString(36).slice(2);
  const stage = document.createElement("div");
  stage.className = "workbench-plots";
  el.classList.add("workbench-view");
  el.appendChild(stage);

  let Bokeh = null, doc = null, shown = null, models = 0;
  let seq = -1, building = true, asked = false, gone = false;
  let onScreen = true, lastSeen = 0;
  const backlog = [];
  let built = Promise.resolve();                       // documents are built one after the other

  const visible = () => onScreen && document.visibilityState === "visible";
  const say = (kind) => { if (!gone || kind === "bye") model.send({ kind, view, seq, visible: visible() }); };
  const ask = () => { if (!asked) { asked = true; say("hello"); } };

  function clear() {
    for (const root of shown ?? []) root.remove?.();
    shown = null;
    const at = Bokeh?.documents.indexOf(doc) ?? -1;
    if (at >= 0) Bokeh.documents.splice(at, 1);
    doc = null;
    stage.replaceChildren();
  }

  async function build(bundle) {
    clear();
    const { Document } = Bokeh.require("document");
    const { add_document_standalone } = Bokeh.require("embed/standalone");
    doc = Document.from_json(bundle.doc);
    dress(doc, stage);
    models = doc.all_models.size;
    const places = doc.roots().map((root) => {
      const place = document.createElement("div");
      place.className = "workbench-plot";
      place.dataset.plot = root.name ?? "";
      stage.appendChild(place);
      const show = () => { place.hidden = !root.visible; };   // what has nothing to show leaves no gap
      root.properties.visible.change.connect(show);
      show();
      return place;
    });
    shown = [...(await add_document_standalone(doc, stage, places))];
    seq = bundle.seq;
    building = false;
    for (const [content, buffers] of backlog.splice(0)) apply(content, buffers);
  }

  function apply(content, buffers) {
    if (content.seq <= seq) return;                    // the snapshot has it already
    if (content.seq !== seq + 1) return ask();         // one is missing: what follows cannot be trusted
    const parts = new Map();
    content.buffers.forEach((id, i) => {
      const { buffer, byteOffset, byteLength } = buffers[i];
      parts.set(id, buffer.slice(byteOffset, byteOffset + byteLength));
    });
    try {
      doc.apply_json_patch(content.patch, parts);
    } catch (error) {
      console.warn("workbench: a patch did not fit, asking for the whole document", error);
      return ask();
    }
    seq = content.seq;
    if (doc.all_models.size !== models) {
      dress(doc, stage);
      models = doc.all_models.size;
    }
    if (Date.now() - lastSeen > SEEN_MS) {
      lastSeen = Date.now();
      say("seen");
    }
  }

  function heard(content, buffers) {
    if (gone) return;
    if (content.kind === "patch") {
      if (!building) return apply(content, buffers);
      backlog.push([content, buffers]);
      if (backlog.length > BACKLOG) backlog.shift();   // the gap that this makes is healed like any other
    } else if (content.kind === "snapshot" && content.view === view) {
      asked = false;
      if (content.doc) {
        building = true;
        built = built.then(() => gone || build(content)).catch((error) => console.error("workbench: the plots could not be drawn", error));
      }
    }
  }

  const redress = () => { if (doc) dress(doc, stage); };
  const seeing = () => say("seen");
  const themes = new MutationObserver(redress);
  const screen = new IntersectionObserver((entries) => {
    const now = entries[entries.length - 1].isIntersecting;
    if (now !== onScreen) { onScreen = now; seeing(); }
  });

  model.on("msg:custom", heard);
  Bokeh = await bokehjs(await model.widget_manager.get_model(model.get("loader").slice("IPY_MODEL_".length)));
  await (built = build(JSON.parse(model.get("bundle"))));
  ask();
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
  screen.observe(el);
  document.addEventListener("visibilitychange", seeing);

  return () => {
    say("bye");
    gone = true;
    themes.disconnect();
    screen.disconnect();
    document.removeEventListener("visibilitychange", seeing);
    model.off("msg:custom", heard);
    clear();
  };
}

export default { render };
