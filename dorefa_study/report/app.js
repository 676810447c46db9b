// Draws the charts of a report with Vega-Lite, and sorts its table of trials. The data stand in the page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const MOST_SERIES = 10;
  const PALETTE = ["#3566b0", "#c2571a", "#2a8a57", "#8a4fa8", "#b0303f", "#8d8622", "#1d8a99", "#7a5641", "#d0488f", "#5b6470"];
  const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

  function theme() {
    const ink = isDark() ? "#c9d3de" : "#46525f", line = isDark() ? "#36414d" : "#dde3ea";
    const text = { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
    return {
      background: null, font: "system-ui, sans-serif", view: { stroke: null },
      axis: { ...text, gridColor: line, domainColor: line, tickColor: line },
      header: { labelColor: ink, titleColor: ink }, legend: { ...text, symbolSize: 90, labelLimit: 260, symbolOpacity: 1 }, title: { color: ink, fontSize: 14, anchor: "start" },
      range: { category: PALETTE }, text: { color: ink },
    };
  }

  function draw(id, spec) {
    const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height: 260,
      autosize: { type: "fit", contains: "padding" }, config: theme(), ...spec };
    vegaEmbed("#" + id, full, { actions: { export: true, source: false, compiled: false, editor: false }, renderer: "svg",
      tooltip: { theme: isDark() ? "dark" : "light" } });
  }

  const percent = { format: ".1%" };
  const narrow = () => innerWidth < 600;
  const bottom = (n) => ({ orient: "bottom", columns: narrow() ? 1 : 2, title: null, ...(n > 12 ? { symbolLimit: 12 } : {}) });

  // Accuracy against a cost, with the settings that no other one beats in both.
  function costs() {
    const cost = document.querySelector("input[name=cost]:checked")?.value || "inference";
    const points = data.settings.filter((s) => s.accuracy !== undefined && s[cost]);
    if (!points.length) { byId("cost-plot").textContent = "Nothing to draw yet."; return; }
    const ordered = [...points].sort((a, b) => a[cost] - b[cost] || b.accuracy - a.accuracy);
    let best = -1;
    const front = ordered.filter((s) => s.accuracy > best && ((best = s.accuracy), true));
    const long = { inference: "bit operations of inference, one image (MACs x W A)",
      training: "bit operations of training, one image (MACs x (W A + W G))", bytes: "bytes of the weights" };
    const short = { inference: "bit operations, inference", training: "bit operations, training", bytes: "bytes of weights" };
    const title = (narrow() ? short : long)[cost];
    const x = { field: cost, type: "quantitative", title, scale: { type: "log", nice: false, padding: 18 }, axis: { format: "~s", grid: false, tickCount: 5 } };
    const y = { field: "accuracy", type: "quantitative", title: "best test accuracy", scale: { zero: false, padding: 14 }, axis: percent };
    const tooltip = [{ field: "label", title: "setting" }, { field: "column", title: "column" },
      { field: "accuracy", format: ".2%" }, { field: "n", title: "seeds" }, { field: cost, format: ",", title: cost }];
    draw("cost-plot", { height: 340, layer: [
      { data: { values: front }, mark: { type: "line", interpolate: "step-after", strokeDash: [4, 3], color: "#8a97a5" }, encoding: { x, y } },
      { data: { values: points.filter((s) => s.n > 1) }, mark: { type: "rule", opacity: .5 },
        encoding: { x, y: { field: "low", type: "quantitative" }, y2: { field: "high" }, color: { field: "column", type: "nominal" } } },
      { data: { values: points }, mark: { type: "point", filled: true, size: 90, opacity: .9 },
        encoding: { x, y, color: { field: "column", type: "nominal", legend: bottom(data.columns.length) }, tooltip } },
      { data: { values: narrow() ? [] : front.slice(-14) }, mark: { type: "text", dy: -11, align: "left", fontSize: 11 },
        encoding: { x, y, text: { field: "label" } } },
    ] });
  }

  // Curves: a frame a column, at most ten settings at once.
  const curveSettings = data.settings.filter((s) => s.curve?.length);
  const labels = [...new Set(curveSettings.map((s) => s.label))];
  const chosen = new Set(labels.slice(0, MOST_SERIES));

  function picks() {
    const box = byId("curve-picks");
    box.replaceChildren(...labels.map((label) => {
      const item = document.createElement("label"), input = document.createElement("input");
      input.type = "checkbox"; input.checked = chosen.has(label);
      input.onchange = () => { input.checked ? chosen.add(label) : chosen.delete(label); curves(); };
      item.append(input, " " + label);
      return item;
    }));
    byId("curve-more").hidden = labels.length <= 1;
  }

  function curves() {
    const metric = byId("curve-metric").value, across = byId("curve-x").value;
    const shown = labels.filter((label) => chosen.has(label)).slice(0, 3 * MOST_SERIES);
    const frames = byId("curve-plots");
    frames.replaceChildren();
    data.columns.forEach((column, index) => {
      const values = curveSettings.filter((s) => s.column === column && chosen.has(s.label)).flatMap((s) =>
        s.curve.filter((p) => p[metric]).map((p) => ({ setting: s.label, x: p[across], y: p[metric][0], low: p[metric][1], high: p[metric][2] })));
      if (!values.length) return;
      const frame = document.createElement("div");
      frame.className = "plot"; frame.id = "curve-" + index;
      frames.append(frame);
      const isShare = metric.endsWith("accuracy");
      const x = { field: "x", type: "quantitative", title: across === "seconds" ? "seconds of training" : "epoch", axis: { grid: false, tickMinStep: across === "seconds" ? 0 : 1 } };
      const color = { field: "setting", type: "nominal", scale: { domain: shown }, legend: bottom(shown.length) };
      const axis = isShare ? { format: ".0%" } : { format: "~g" };
      draw(frame.id, { title: column, height: 300, data: { values },
        layer: [
          { mark: { type: "area" }, encoding: { x, y: { field: "low", type: "quantitative", scale: { zero: false }, title: null }, y2: { field: "high" },
            color, opacity: { condition: { param: "pick", value: .16 }, value: 0 } } },
          { params: [{ name: "pick", select: { type: "point", fields: ["setting"] }, bind: "legend" }], mark: { type: "line", point: values.length < 400 ? { size: 22 } : false, strokeWidth: 2 },
            encoding: { x, y: { field: "y", type: "quantitative", title: metric.replaceAll("_", " "), scale: { zero: false }, axis }, color,
              opacity: { condition: { param: "pick", value: 1 }, value: .08 },
              tooltip: [{ field: "setting" }, { field: "x", title: across }, { field: "y", title: metric, format: isShare ? ".2%" : ".4~g" }] } },
        ] });
    });
    if (!frames.children.length) frames.textContent = "Nothing to draw yet.";
  }

  // Layers of one setting: statistics over the epochs, and histograms of its end.
  const layered = data.settings.filter((s) => s.layers && Object.keys(s.layers.curves).length > 1);

  function layers() {
    const setting = layered[+byId("layer-setting").value];
    if (!setting) return;
    const { curves, probe } = setting.layers, epochs = curves.epoch[""];
    const titles = { gradient_rms: "gradient of weights, root mean square", sign_flips: "signs of weights that flip in a step",
      weights_rms: "weights, root mean square", weights_max: "weights, largest magnitude", weights_positive: "weights that are positive" };
    const frames = byId("layer-plots");
    frames.replaceChildren();
    const add = (id) => { const frame = document.createElement("div"); frame.className = "plot"; frame.id = id; frames.append(frame); };
    Object.entries(titles).filter(([name]) => curves[name]).forEach(([name, title]) => {
      add("layer-" + name);
      const values = Object.entries(curves[name]).flatMap(([layer, ys]) => ys.map((y, i) => ({ layer, epoch: epochs[i], y })));
      const isLog = name === "gradient_rms" || name === "sign_flips";
      draw("layer-" + name, { title, height: 280, data: { values: isLog ? values.filter((v) => v.y > 0) : values }, mark: { type: "line", point: { size: 18 } },
        encoding: { x: { field: "epoch", type: "quantitative", axis: { grid: false, tickMinStep: 1 } },
          y: { field: "y", type: "quantitative", title: null, scale: isLog ? { type: "log" } : { zero: false }, axis: { format: "~g", tickCount: 5 } },
          color: { field: "layer", type: "nominal", legend: bottom(10) }, tooltip: ["layer", "epoch", "y"] } });
    });
    const names = Object.keys(probe);
    if (names.length) {
      add("layer-noise");
      const ratio = names.filter((n) => probe[n].gradient_to_noise !== null).map((layer) => ({ layer, y: probe[layer].gradient_to_noise }));
      if (ratio.length) draw("layer-noise", { title: "gradient over its quantization noise (below \u221a3: stop at these bits)", height: 260, layer: [
        { data: { values: ratio }, mark: "bar", encoding: { x: { field: "layer", type: "nominal", title: null, sort: null }, y: { field: "y", type: "quantitative", title: null }, tooltip: ["layer", "y"] } },
        { data: { values: [{ y: Math.sqrt(3) }] }, mark: { type: "rule", strokeDash: [5, 3], color: "#c0392b" }, encoding: { y: { field: "y", type: "quantitative" } } } ] });
      add("layer-clipped");
      const clipped = names.flatMap((layer) => [["at 0", "at_zero"], ["at 1", "at_one"]].map(([end, key]) => ({ layer, end, y: probe[layer][key] })));
      draw("layer-clipped", { title: "inputs of layers that are clipped", height: 260, data: { values: clipped }, mark: "bar",
        encoding: { x: { field: "layer", type: "nominal", title: null, sort: null }, y: { field: "y", type: "quantitative", title: null, axis: { format: ".0%" } },
          color: { field: "end", type: "nominal", legend: bottom(2) }, tooltip: ["layer", "end", { field: "y", format: ".1%" }] } });
      for (const [kind, title] of [["weights", "weights"], ["activations", "inputs"], ["gradients", "gradients of outputs"]]) {
        add("layer-hist-" + kind);
        const bars = names.flatMap((layer) => {
          const h = probe[layer][kind], step = (h.high - h.low) / (h.counts.length || 1), top = Math.max(...h.counts, 1);
          return h.counts.map((count, i) => ({ layer, from: h.low + i * step, to: h.low + (i + 1) * step, share: count / top }));
        });
        draw("layer-hist-" + kind, { title: "histograms: " + title, data: { values: bars }, width: undefined, height: undefined, autosize: undefined,
          facet: { field: "layer", title: null, sort: null }, columns: 3, resolve: { scale: { x: "independent" } }, spacing: 12,
          spec: { width: narrow() ? 74 : 118, height: 54, mark: { type: "bar", binSpacing: 0 }, encoding: {
            x: { field: "from", type: "quantitative", bin: { binned: true }, title: null, axis: { tickCount: 3, format: "~g", grid: false } }, x2: { field: "to" },
            y: { field: "share", type: "quantitative", title: null, axis: null } } } });
      }
    }
  }

  // The table of trials.
  const ROWS = 200;
  const columns = [["trial", (t) => t.name], ["W,A,G", (t) => t.bits], ...data.varied.map((name, i) => [name, (t) => t.varied[i] ?? ""]),
    ["seed", (t) => t.seed], ["status", (t) => t.status], ["best", (t) => t.accuracy[0]], ["last", (t) => t.accuracy[1]],
    ...(data.trials.some((t) => t.accuracy[2] !== null) ? [["by validation", (t) => t.accuracy[2]]] : []),
    ["images/s", (t) => t.rate], ["minutes", (t) => t.seconds / 60]];
  let order = null, down = true;

  function trials() {
    const word = byId("trial-filter").value.toLowerCase();
    let rows = data.trials.filter((t) => (t.name + " " + t.status + " " + t.reason).toLowerCase().includes(word));
    if (order !== null) {
      const of = columns[order][1];
      rows = [...rows].sort((a, b) => { const x = of(a) ?? -Infinity, y = of(b) ?? -Infinity; return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1); });
    }
    const head = document.createElement("tr");
    columns.forEach(([name], index) => {
      const cell = document.createElement("th");
      cell.textContent = name + (order === index ? (down ? " \u2193" : " \u2191") : "");
      cell.onclick = () => { down = order === index ? !down : true; order = index; trials(); };
      head.append(cell);
    });
    const shown = rows.slice(0, ROWS).map((t) => {
      const row = document.createElement("tr");
      columns.forEach(([name, of], index) => {
        const cell = document.createElement("td"), value = of(t);
        if (index === 0 && !t.page) cell.textContent = t.name;
        else if (index === 0) {
          const link = document.createElement("a");
          link.href = "trials/" + encodeURIComponent(t.name) + "/trial.html"; link.textContent = t.name;
          cell.append(link);
        } else if (["best", "last", "by validation"].includes(name)) cell.textContent = value === null ? "" : (100 * value).toFixed(2) + "%";
        else if (name === "images/s") cell.textContent = value ? value.toFixed(0) : "";
        else if (name === "minutes") cell.textContent = value ? value.toFixed(1) : "";
        else cell.textContent = value;
        if (name === "status") { cell.className = "status-" + t.status; cell.title = t.reason; if (t.reason) cell.textContent += ": " + t.reason.slice(0, 90); }
        row.append(cell);
      });
      return row;
    });
    const table = byId("trial-table");
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...shown);
    byId("trial-count").textContent = rows.length > ROWS ? `${ROWS} of ${rows.length} trials; filter or sort to see others` : `${rows.length} trials`;
  }

  document.querySelectorAll("input[name=view]").forEach((input) => { input.onchange = () => { document.body.dataset.view = input.value; }; });
  document.querySelectorAll("input[name=cost]").forEach((input) => { input.onchange = costs; });
  byId("curve-metric").onchange = byId("curve-x").onchange = curves;
  const metrics = new Set(curveSettings.flatMap((s) => s.curve.flatMap((p) => Object.keys(p))));
  [...byId("curve-metric").options].forEach((option) => { if (!metrics.has(option.value)) option.remove(); });
  const select = byId("layer-setting");
  select.replaceChildren(...layered.map((s, i) => new Option(`${s.column}, ${s.label} (${s.layers.trial})`, i)));
  select.onchange = layers;
  byId("layers-section").hidden = !layered.length;
  byId("trial-filter").oninput = trials;
  const all = () => { costs(); curves(); layers(); };
  picks(); trials(); all();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
})();
