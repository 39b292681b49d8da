"use strict";
// Draws the plots from the data block, and works the table, the case chooser and the theme button.
// Every string of the data is another's: it goes into the page as text, and into plotly, which
// reads a little HTML, only through `safe`.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const RUNS = ["#2f7fd6", "#cf6a12", "#1c9478", "#a35cc9", "#c8508f", "#8a8a2a"];
  const GREY = "#7d8590";
  const VERDICTS = {
    FASTER: ["#1f9254", "triangle-right"],
    SLOWER: ["#de4b41", "triangle-left"],
    EQUIVALENT: ["#2f7fd6", "square"],
    UNDECIDED: [GREY, "circle"],
    UNRANKED: ["#b07d10", "diamond"],
    NO_INTERVAL: [GREY, "circle-open"],
  };
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const FONT = { family: 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif', size: 12 };
  const LETTER = 6.5; // px, a letter of FONT on average, rather too wide than too narrow
  const LINE = 20; // px, a bar or a label
  const PRINT_WIDTH = 680; // px, A4 without margins
  const PRINT_PANEL = 325;
  const MANY_LABELS = 12;

  const safe = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const hover = (lines) => lines.filter((line) => line !== "").map(safe).join("<br>");
  const cut = (text, width) => {
    const most = Math.max(8, Math.floor(width / LETTER));
    return text.length > most ? text.slice(0, most - 1) + "…" : text;
  };
  const breadth = (text) => LETTER * (text.length + 0.4 * (text.match(/[A-Z]/g) || []).length);
  const runColour = (run) => RUNS[run % RUNS.length];
  const many = data.runs.length > 1;
  const who = (run) => (many ? `${run + 1}: ` : "");
  const bold = (text) => `<b>${text}</b>`;

  function layout(width, height, extra) {
    return {
      width, height, font: FONT, showlegend: false, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 4, r: 4, t: 4, b: 28 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: GREY, activecolor: RUNS[0] }, ...extra,
    };
  }
  const fixed = { fixedrange: true, zeroline: false };
  const hidden = { ...fixed, visible: false };
  const still = { displayModeBar: false };
  const movable = {
    displaylogo: false,
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  };

  // The share of the width at which figures begin, a little behind the axis's end.
  const AXIS_GAP = 0.02;
  function splitOf(width, figures) {
    const need = Math.max(0, ...figures.map((f) => breadth(f.text))) + 8;
    return Math.max(width < 420 ? 0.34 : 0.4, 1 - need / (width - 8));
  }

  // Lines of text and marks under each other: y counts pixels from the top. `from` is the share of
  // the width that labels beside the marks take; 0 where each stands above its marks.
  function lines(width, height, texts, figures, axis, from = 0) {
    const split = splitOf(width, figures);
    const column = (items, x) => ({
      type: "scatter", mode: "text", xaxis: x, yaxis: "y", hoverinfo: "skip", cliponaxis: false,
      x: items.map(() => 0), y: items.map((i) => i.y), text: items.map((i) => i.text),
      textposition: "middle right",
    });
    return {
      traces: [
        column(texts, "x3"),
        column(figures.map((f) => ({ y: f.y, text: safe(cut(f.text, (1 - split) * width)) })), "x2"),
      ],
      layout: layout(width, height + 32, {
        dragmode: false,
        xaxis: { ...fixed, domain: [from, split - AXIS_GAP], tickangle: 0, ...axis },
        xaxis2: { ...hidden, domain: [split, 1], range: [0, 1] },
        xaxis3: from
          ? { ...hidden, domain: [0, from], range: [0, 1] }
          : { ...hidden, domain: [0, 1], range: [0, 1], overlaying: "x" },
        yaxis: { ...hidden, range: [height, 0] },
      }),
    };
  }

  function label(slot, width, mark = "") {
    const name = cut(slot.label, width - (mark ? mark.length + 5 : 0) * LETTER);
    const rest = width / LETTER - name.length - 3;
    const detail = mark ? `${mark}, ${slot.detail}` : slot.detail;
    return bold(safe(name)) + (mark || rest > 8 ? "  " + safe(cut(detail, rest * LETTER)) : "");
  }

  // A label each; what would then read alike has its mark first.
  function labels(slots, width) {
    const texts = slots.map((slot) => label(slot, width));
    const alike = (text) => texts.indexOf(text) !== texts.lastIndexOf(text);
    return texts.map((text, i) => (alike(text) ? label(slots[i], width, slots[i].mark) : text));
  }

  // What marks say when they are pointed at, or that it is nothing; and the ends of their intervals.
  const said = (marks) => ({ hovertext: marks.map((m) => hover(m.hover)), hoverinfo: "text" });
  const silent = (mode) => ({ type: "scatter", mode, hoverinfo: "skip" });
  const THIN = { thickness: 1, width: 3 }, THICK = { thickness: 1.5, width: 4 };
  const ends = (marks, value, low, high, looks) => ({
    type: "data", symmetric: false, ...looks,
    array: marks.map((m) => (m[high] ?? m[value]) - m[value]),
    arrayminus: marks.map((m) => m[value] - (m[low] ?? m[value])),
  });

  const xy = (points, x, y) => ({ x: points.map((p) => p[x]), y: points.map((p) => p[y]) });
  const dots = (marks, x, y, marker) => ({
    type: "scatter", mode: "markers", ...xy(marks, x, y), marker, ...said(marks),
  });
  // The points of a curve, in their run's colour.
  const curve = (run, points, x, y, looks) => ({
    ...dots(points, x, y, { size: 8, color: runColour(run) }),
    mode: "lines+markers", line: { color: runColour(run), width: 2 }, ...looks,
  });
  // A panel of curves, which stands still: its axes, and what else it has of a layout.
  const chart = (width, margin, traces, xaxis, yaxis, more) => [
    traces,
    layout(width, 300, {
      margin, dragmode: false, xaxis: { ...fixed, ...xaxis }, yaxis: { ...fixed, ...yaxis }, ...more,
    }),
    still,
  ];

  // Intervals of the marks that have one: plotly would draw a cap for the others too.
  function whiskers(marks, value) {
    const known = marks.filter((m) => m.high !== null && m.low !== null);
    return {
      ...silent("markers"), ...xy(known, value, "y"),
      marker: { size: 1, opacity: 0 }, error_x: ends(known, value, "low", "high", THICK),
    };
  }

  function bars(panel) {
    return (width) => {
      const texts = [], figures = [], marks = [];
      const names = labels(panel.slots, width - 16);
      let y = 0;
      for (const [i, slot] of panel.slots.entries()) {
        texts.push({ y: y + LINE / 2, text: names[i] });
        y += LINE;
        for (const bar of slot.bars) {
          const word = bar.word === "OK" ? "" : `, ${bar.word}`;
          figures.push({ y: y + LINE / 2, text: who(bar.run) + bar.text + word });
          marks.push({ ...bar, y: y + LINE / 2 });
          y += LINE;
        }
        y += 6;
      }
      const most = Math.max(...marks.map((m) => m.value));
      // One wild interval must not press every bar of the panel to the left edge.
      const end = Math.min(2.2 * most, Math.max(most, ...marks.map((m) => m.high ?? 0))) * 1.04;
      const base = lines(width, y, texts, figures, {
        range: [0, end], tickformat: "~s", nticks: width < 420 ? 4 : 6,
      });
      const bar = {
        type: "bar", orientation: "h", ...xy(marks, "value", "y"),
        width: marks.map(() => 13),
        marker: {
          color: marks.map((m) => runColour(m.run)),
          opacity: marks.map((m) => (["OK", "NOISY", "FEW LAUNCHES"].includes(m.word) ? 1 : 0.45)),
        },
        ...said(marks),
      };
      return [[...base.traces, bar, whiskers(marks, "value")], base.layout, still];
    };
  }

  // A log axis of less than a decade gets no useful ticks from plotly. room: px, of the axis.
  function ratioTicks(low, high, room) {
    const gap = (one, next) => (Math.log(next / one) / Math.log(high / low)) * room - breadth(`${one}${next}`) / 2;
    const legible = (ticks) => ticks.slice(1).every((tick, i) => gap(ticks[i], tick) > LETTER);
    const apart = (step) => {
      const ticks = [];
      for (let k = Math.ceil(low / step); k * step <= high && ticks.length < room / LETTER; k++) ticks.push(+(k * step).toFixed(3));
      return ticks;
    };
    const powers = (digits) => [...Array(13).keys()].flatMap((e) => digits.map((m) => +`${m}e${e - 6}`)).filter((t) => t >= low && t <= high);
    return [...[0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5].map(apart), powers([1, 2, 5]), powers([1])].find(legible) ?? [1];
  }

  function ratio(cases) {
    return (width) => {
      const texts = [], figures = [], marks = [];
      const beside = new Set(cases.map((c) => label(c, 0.36 * width - 16)));
      const room = (from) => (splitOf(width, cases) - AXIS_GAP - from) * width; // px, of the axis
      // Above its mark a label has more room, and so has the axis.
      const from = width > 760 && beside.size === cases.length && room(0.36) > 200 ? 0.36 : 0;
      const names = labels(cases, (from || 1) * width - 16);
      let y = 0;
      for (const [i, c] of cases.entries()) {
        texts.push({ y: y + LINE / 2, text: names[i] });
        if (!from) y += LINE;
        figures.push({ y: y + LINE / 2, text: c.text });
        marks.push({ ...c, y: y + LINE / 2 });
        y += LINE + 6;
      }
      const ratios = marks.map((m) => m.ratio);
      const lows = marks.map((m) => m.low ?? m.ratio), highs = marks.map((m) => m.high ?? m.ratio);
      const low = Math.max(Math.min(0.98, ...lows), Math.min(1, ...ratios) / 4) / 1.03;
      const high = Math.min(Math.max(1.02, ...highs), Math.max(1, ...ratios) * 4) * 1.03;
      const ticks = ratioTicks(low, high, room(from));
      const base = lines(width, y, texts, figures, {
        type: "log", range: [Math.log10(low), Math.log10(high)], tickvals: ticks, ticktext: ticks.map(String),
      }, from);
      // Equal throughput: interrupted where a label stands.
      const one = {
        ...silent("lines"), line: { color: GREY, width: 2 },
        x: marks.flatMap(() => [1, 1, null]), y: marks.flatMap((m) => [m.y - LINE * 0.65, m.y + LINE * 0.65, null]),
      };
      const colours = marks.map((m) => VERDICTS[m.verdict][0]);
      const points = dots(marks, "ratio", "y", {
        size: 10, color: colours, symbol: marks.map((m) => VERDICTS[m.verdict][1]),
        line: { width: 1.5, color: colours },
      });
      return [[...base.traces, one, whiskers(marks, "ratio"), points], base.layout, still];
    };
  }

  // Decades, and 2 and 5 between them where there are few decades, as 200G and 0.5.
  function decades(low, high) {
    const ticks = [];
    for (let e = Math.floor(low); e <= high; e++) {
      for (const m of high - low < 2.5 ? [1, 2, 5] : [1]) {
        const at = e + Math.log10(m);
        if (at >= low && at <= high) ticks.push(m * 10 ** e);
      }
    }
    const prefix = (v) => {
      const [size, letter] = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [0, ""]].find(([s]) => v >= s * 0.999);
      return `${+(v / (size || 1)).toPrecision(3)}${letter}`;
    };
    return { tickvals: ticks, ticktext: ticks.map(prefix) };
  }
  const logAxis = (range, text) => ({ type: "log", zeroline: false, ...decades(...range), range, title: { text } });

  function roofline({ points, roofs }) {
    return (width) => {
      const ridges = roofs.filter((r) => r.matmul && r.bandwidth).map((r) => r.matmul / r.bandwidth);
      const places = [...points.map((p) => p.intensity), ...ridges];
      const left = Math.min(1, ...places) / 3, right = Math.max(10, ...places) * 5;
      const narrow = width < 560;
      const floor = [], roofTraces = [], flats = [], slopes = [];
      const arithmetics = [...new Set(roofs.map((r) => r.arithmetic))];
      for (const r of roofs) {
        const at = (x) => Math.min(r.matmul ?? Infinity, (r.bandwidth ?? Infinity) * x);
        const xs = r.matmul && r.bandwidth ? [left, r.matmul / r.bandwidth, right] : [left, right];
        const ys = xs.map(at);
        roofTraces.push({
          type: "scatter", mode: "lines", x: xs, y: ys, hoverinfo: "text",
          hovertext: hover([data.runs[r.run], `${r.arithmetic} roof`, r.matmul_text ?? "no matmul ceiling", r.bandwidth_text ?? "no bandwidth ceiling"]),
          line: { color: runColour(r.run), width: 2, dash: DASHES[arithmetics.indexOf(r.arithmetic) % DASHES.length] },
        });
        if (r.matmul) flats.push({ y: r.matmul, x: xs[xs.length - 2], text: `${who(r.run)}${r.arithmetic} matmul ${r.matmul_text}` });
        if (r.bandwidth && !slopes.some((e) => e.run === r.run)) slopes.push({ run: r.run, bandwidth: r.bandwidth, text: `${who(r.run)}memory ${r.bandwidth_text}` });
        floor.push(...ys);
      }
      const heights = [...floor, ...points.map((p) => p.flop)];
      const x0 = Math.log10(left), x1 = Math.log10(right);
      const y0 = Math.log10(Math.min(...heights)) - 0.35, y1 = Math.log10(Math.max(...heights)) + 0.45;
      const room = { x: width - 76, y: narrow ? 280 : 380 }; // px, of the axes
      const lower = 10 ** (((y0 - y1) * 6) / room.y); // by 6 px, off the line
      // A roof is named at its ridge, far from its best products: the highest above its line and the
      // others below theirs, out of each other's way; where that leaves no room, at its end.
      flats.sort((a, b) => b.y - a.y);
      flats.forEach((f, i) => {
        f.side = "right";
        if (i > 1 && f.y > flats[i - 1].y * lower ** 3) f.x = Math.max(f.x, flats[i - 1].x * 4);
        if ((Math.log10(right / f.x) / (x1 - x0)) * room.x < LETTER * f.text.length) [f.x, f.side] = [right / 4 ** Math.max(0, i - 1), "left"];
      });
      slopes.sort((a, b) => b.bandwidth - a.bandwidth);
      const middle = left * (Math.min(right, ...ridges) / left) ** 0.75;
      const roofNames = [
        ...flats.map((f, i) => ({ text: f.text, y: i ? f.y * lower : f.y, x: f.x, to: `${i ? "bottom" : "top"} ${f.side}` })),
        ...slopes.map((s, i) => ({ x: middle, y: s.bandwidth * middle, text: s.text, to: i ? "bottom right" : "top left", along: lower })),
      ];
      // What would lie over a name before it goes down until it is free, that of a slope along it.
      const box = (n) => {
        const [x, y] = [(Math.log10(n.x) / (x1 - x0)) * room.x, (-Math.log10(n.y) / (y1 - y0)) * room.y];
        return { x: n.to.endsWith("left") ? x - breadth(n.text) : x, y: n.to.startsWith("top") ? y - 16 : y, width: breadth(n.text) };
      };
      const over = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && Math.abs(a.y - b.y) < 16;
      roofNames.forEach((n, i) => {
        while (roofNames.slice(0, i).some((m) => over(box(m), box(n)))) {
          [n.x, n.y] = [Math.max(left, n.x * (n.along ?? 1)), n.y * lower];
        }
      });
      // Of several points of one name in one run, the last bears it.
      const named = [...new Map(points.map((p) => [`${p.run} ${p.label}`, p])).values()];
      const labelled = named.length <= MANY_LABELS && !narrow ? named : [];
      const texts = (items) => ({
        ...silent("text"), cliponaxis: false,
        ...xy(items, "x", "y"), text: items.map((i) => safe(i.text)),
        textposition: items.map((i) => i.to),
      });
      const marks = dots(points, "intensity", "flop", {
        size: 11, color: points.map((p) => runColour(p.run)), line: { width: 1, color: "#ffffff" },
      });
      const at = (p) => flats.some((f) => p.flop > f.y * lower ** 1.5 && p.flop < f.y / lower ** 1.5);
      const names = labelled.map((p, i) => ({
        x: p.intensity, y: p.flop, text: "  " + p.label,
        to: at(p) ? "top right" : i % 2 && labelled.length > 4 ? "bottom right" : "middle right",
      }));
      return [
        [...roofTraces, texts(roofNames), marks, texts(names)],
        layout(width, narrow ? 340 : 440, {
          margin: { l: 62, r: 14, t: 12, b: 48 }, dragmode: narrow ? false : "zoom",
          xaxis: logAxis([x0, x1], "FLOP for each byte moved"), yaxis: logAxis([y0, y1], "FLOP/s"),
        }),
        movable,
      ];
    };
  }

  function sweep(panel) {
    const traces = panel.curves.map(({ run, points }) => curve(run, points, "throughput", "ms", {
      mode: "lines+markers+text", cliponaxis: false,
      text: points.map((p) => safe(p.batch)), textposition: "top left",
      error_x: ends(points, "throughput", "low", "high", THIN),
      error_y: ends(points, "ms", "ms_low", "ms_high", THIN),
    }));
    return (width) => chart(
      width, { l: 56, r: 14, t: 18, b: 44 }, traces,
      { rangemode: "tozero", title: { text: safe(panel.unit) }, nticks: 6 },
      { rangemode: "tozero", title: { text: safe(panel.latency) + " p50, ms" } },
    );
  }

  // Points with whiskers both ways, and a line through some of them.
  function served(panel) {
    const traces = panel.curves.flatMap(({ run, points, line }) => [
      { ...silent("lines"), ...xy(line, 0, 1), line: { color: runColour(run), width: 2 } },
      curve(run, points, "x", "y", {
        mode: "markers+text", cliponaxis: false, text: points.map((p) => safe(p.label)), textposition: "top center",
        error_x: ends(points, "x", "x_low", "x_high", THIN), error_y: ends(points, "y", "y_low", "y_high", THIN),
      }),
    ]);
    const limit = panel.limit === null ? {} : {
      shapes: [{ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: panel.limit, y1: panel.limit, line: { color: GREY, width: 1.5, dash: "dot" } }],
      annotations: [{ xref: "paper", yref: "y", x: 0, y: panel.limit, xanchor: "left", yanchor: "bottom", showarrow: false, text: safe(panel.limit_text) }],
    };
    return (width) => chart(
      width, { l: 62, r: 28, t: 24, b: 44 }, traces,
      { rangemode: "tozero", title: { text: safe(panel.x) }, nticks: 6 },
      { rangemode: "tozero", title: { text: safe(panel.y) } },
      limit,
    );
  }

  function efficiency(panel) {
    return (width) => {
      const all = panel.curves.flatMap((c) => c.points);
      const most = Math.max(...all.map((p) => p.devices)), least = Math.min(...all.map((p) => p.devices));
      const x = [Math.log10(least) - 0.08, Math.log10(most) + 0.08];
      const powers = [];
      for (let n = 1; n <= most * 1.01; n *= 2) if (n >= least) powers.push(n);
      const every = Math.ceil(powers.length / Math.max(3, Math.floor(width / 60)));
      const ticks = powers.filter((_, i) => (powers.length - 1 - i) % every === 0);
      const texts = panel.curves.map((c) => who(c.run) + c.label);
      const right = Math.min(0.4 * width, 16 + Math.max(...texts.map(breadth)));
      const high = Math.max(1, ...all.map((p) => p.high ?? p.value));
      const ideal = { ...silent("lines"), x: [10 ** x[0], 10 ** x[1]], y: [1, 1], line: { color: GREY, width: 1.5, dash: "dot" } };
      const traces = panel.curves.map(({ run, weak, points }) => curve(run, points, "devices", "value", {
        line: { color: runColour(run), width: 2, dash: weak ? "dash" : "solid" },
        marker: { size: 8, color: runColour(run), symbol: weak ? "circle-open" : "circle", line: { width: 2, color: runColour(run) } },
        error_y: ends(points, "value", "low", "high", THICK),
      }));
      // Each curve is named at its end, the names out of each other's way.
      const step = (1.06 * high) / 12;
      const last = panel.curves.map((c, i) => ({ text: texts[i], at: c.points[c.points.length - 1] })).sort((a, b) => a.at.value - b.at.value);
      last.forEach((end, i) => { end.y = i ? Math.max(end.at.value, last[i - 1].y + step) : end.at.value; });
      const names = {
        ...silent("text"), cliponaxis: false, textposition: "middle right",
        x: last.map((end) => end.at.devices), y: last.map((end) => end.y), text: last.map((end) => "  " + safe(cut(end.text, right))),
      };
      return chart(
        width, { l: 52, r: right, t: 12, b: 44 }, [ideal, ...traces, names],
        { type: "log", range: x, tickvals: ticks, ticktext: ticks.map(String), tickangle: 0, title: { text: "devices" } },
        { range: [0, 1.06 * high], tickformat: ".0%", title: { text: "efficiency" } },
      );
    };
  }

  function link(panel) {
    const all = panel.curves.flatMap((c) => c.points);
    const range = (values) => [Math.log10(Math.min(...values)) - 0.3, Math.log10(Math.max(...values)) + 0.3];
    const x = range(all.map((p) => p.size)), y = range(all.map((p) => p.bus));
    const traces = panel.curves.map(({ run, points }) => curve(run, points, "size", "bus"));
    const fits = panel.curves.filter((c) => c.fit.length).map(({ run, fit }) => ({
      ...silent("lines"), ...xy(fit, 0, 1), line: { color: runColour(run), width: 1.5, dash: "dot" },
    }));
    return (width) => chart(
      width, { l: 56, r: 14, t: 18, b: 44 }, [...fits, ...traces],
      logAxis(x, "size, B"), logAxis(y, "bus bandwidth, B/s"),
    );
  }

  // A matrix in colours: `z` [row][column], null where there is nothing, `marked` cells framed. Of
  // `middle`, from blue below it over white to red above; without, from dark to bright.
  const BRIGHT = [[0, "#440154"], [0.25, "#3b528b"], [0.5, "#21918c"], [0.75, "#5ec962"], [1, "#fde725"]];
  const APART = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1, "#b2182b"]];
  function matrix(panel) {
    return (width) => {
      const rows = panel.z.length, columns = panel.z[0].length;
      const some = panel.z.flat().filter((v) => v !== null);
      const spread = Math.max(0.05, ...some.map((v) => Math.abs(v - panel.middle)));
      // What differs by little must not look as if it differed by much.
      const range = panel.middle === null ? [Math.min(...some, 0.8 * Math.max(...some)), Math.max(...some)] : [panel.middle - spread, panel.middle + spread];
      const left = Math.min(0.4 * width, 34 + breadth(panel.rows.reduce((a, b) => (b.length > a.length ? b : a), "")));
      const bar = 84, room = width - left - bar;
      const cell = panel.square ? Math.min(room, 420) / columns : Math.max(3, Math.min(LINE, 900 / rows));
      const height = Math.max(90, cell * rows) + 56;
      // Ticks that stand clear of each other; those of marked rows in any case.
      const ticks = (names, space, always) => {
        const every = Math.ceil((names.length * 14) / Math.max(14, space));
        const at = names.map((_, i) => i).filter((i) => i % every === 0 || always.has(i));
        const clear = at.filter((i) => always.has(i) || ![...always].some((k) => Math.abs(k - i) * (space / names.length) < 14));
        return { tickvals: clear, ticktext: clear.map((i) => (always.has(i) ? bold(safe(names[i])) : safe(names[i]))) };
      };
      const named = new Set(panel.marked_rows);
      const square = panel.square ? { scaleanchor: "x" } : {};
      const frame = ([row, from, to]) => ({
        type: "rect", xref: "x", yref: "y", x0: from - 0.5, x1: to + 0.5, y0: row - 0.5, y1: row + 0.5, line: { width: cell > 8 ? 2.5 : 1 },
      });
      return [
        [{
          type: "heatmap", z: panel.z, hoverongaps: false, xgap: cell > 6 ? 1 : 0, ygap: cell > 6 ? 1 : 0,
          zmin: range[0], zmax: range[1],
          colorscale: panel.middle === null ? BRIGHT : APART,
          text: panel.text.map((line, i) => line.map((text, j) => text === null ? "" : hover([`${panel.down} ${panel.rows[i]}, ${panel.across} ${panel.columns[j]}`, text, panel.of]))),
          hoverinfo: "text",
          colorbar: { thickness: 12, lenmode: "pixels", len: Math.min(cell * rows, 420), y: 1, yanchor: "top", ypad: 0, outlinewidth: 0, x: 1.02, xpad: 0, tickformat: panel.tickformat, nticks: 5 },
        }],
        layout(width, height, {
          margin: { l: left, r: bar, t: 6, b: 46 }, dragmode: false,
          xaxis: { ...fixed, showgrid: false, constrain: "domain", range: [-0.5, columns - 0.5], tickangle: 0, title: { text: safe(panel.across) }, ...ticks(panel.columns, room / 2, new Set()) },
          yaxis: { ...fixed, showgrid: false, constrain: "domain", range: [rows - 0.5, -0.5], title: { text: safe(panel.down), standoff: 4 }, ...ticks(panel.rows, cell * rows, named), ...square },
          shapes: panel.frames.map(frame),
        }),
        still,
      ];
    };
  }

  // Each point at the middle of its bin: [0-based sample index in the launch, ms].
  const places = ({ samples, ms }, first) =>
    ms.map((value, i) => [first + ((i + 0.5) * samples) / ms.length - 0.5, value]);

  function trace(chosen) {
    return (width) => {
      const warm = [], steady = [], curves = [], ticks = [], names = [], edges = [];
      let start = 0;
      for (const launch of chosen.launches) {
        const early = places(launch.warmup, 0), late = places(launch.steady, launch.warmup.samples);
        const length = launch.warmup.samples + launch.steady.samples || 3;
        const who = (many ? `run ${launch.run + 1}, ` : "") + `launch ${launch.launch}`;
        const marks = (what, samples) => samples.map(([i, ms]) => ({
          x: start + i, y: ms, run: launch.run, hover: [who, `${what} ${Math.floor(i) + 1}: ${ms} ms`],
        }));
        const counted = marks("sample", late);
        warm.push(...marks("warm-up sample", early));
        steady.push(...counted);
        curves.push({ ...silent("lines"), ...xy(counted, "x", "y"), line: { color: runColour(launch.run), width: 1.2 } });
        ticks.push(start + length / 2 - 0.5);
        names.push((many ? `${launch.run + 1}/` : "") + launch.launch);
        start += length + 2;
        edges.push(start - 1.5);
      }
      edges.pop();
      const narrow = width < 560;
      const every = Math.ceil(names.length / Math.max(4, Math.floor(width / 45)));
      const highest = Math.max(...[...warm, ...steady].map((m) => m.y));
      return [
        [
          ...curves,
          dots(warm, "x", "y", { size: 7, color: GREY, symbol: "circle-open", line: { width: 1.5 } }),
          dots(steady, "x", "y", { size: 6, color: steady.map((m) => runColour(m.run)) }),
        ],
        layout(width, narrow ? 260 : 320, {
          margin: { l: 58, r: 12, t: 12, b: 44 }, dragmode: narrow ? false : "zoom",
          xaxis: {
            zeroline: false, showgrid: false, range: [-1.5, start - 1.5], title: { text: many ? "run / launch, samples in order" : "launch, samples in order" },
            tickvals: ticks.filter((_, i) => i % every === 0), ticktext: names.filter((_, i) => i % every === 0), tickangle: 0,
          },
          yaxis: { zeroline: true, range: [0, highest * 1.08], title: { text: "ms a step" } },
          shapes: edges.map((x) => ({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { width: 1, dash: "dot" } })),
        }),
        movable,
      ];
    };
  }

  // Drawing: every plot is a function of its width, called again when that changes.
  const plots = new Map();
  const byId = (id) => document.getElementById(id);
  function draw(element, width) {
    const [traces, shape, config] = plots.get(element)(Math.max(240, Math.floor(width)));
    Plotly.react(element, traces, shape, config);
    element.dataset.width = width;
  }
  function drawAll() {
    const widths = [...plots.keys()].map((element) => [element, element.clientWidth]);
    for (const [element, width] of widths) if (+element.dataset.width !== width) draw(element, width);
  }
  const add = (id, plot) => byId(id) && plots.set(byId(id), plot);
  const KINDS = [
    ["ratio", data.ratios, ratio], ["systems", data.systems, ratio], ["panel", data.panels, bars],
    ["served", data.served, served], ["efficiency", data.efficiencies, efficiency],
    ["ranks", data.ranks, matrix], ["link", data.links, link], ["map", data.maps, matrix],
    ["sweep", data.sweeps, sweep],
  ];
  for (const [name, panels, plot] of KINDS) panels.forEach((panel, i) => add(`${name}-${i}`, plot(panel)));
  add("roofline", roofline(data.roofline));

  const chooser = byId("trace-case");
  function choose() {
    const chosen = data.traces[chooser.selectedIndex];
    const shown = chosen.launches.length;
    plots.set(byId("trace"), trace(chosen));
    const words = chosen.launches.map((l) => {
      const item = document.createElement("li");
      const name = document.createElement("strong");
      name.textContent = (many ? `run ${l.run + 1}, ` : "") + `launch ${l.launch}: `;
      item.append(name, l.words);
      return item;
    });
    if (shown < chosen.total) {
      const rest = document.createElement("li");
      rest.textContent = `${shown} of ${chosen.total} launches are shown.`;
      words.push(rest);
    }
    byId("trace-words").replaceChildren(...words);
  }
  if (chooser) {
    for (const { case: text } of data.traces) chooser.add(new Option(text));
    chooser.addEventListener("change", () => { choose(); draw(byId("trace"), byId("trace").clientWidth); });
    choose();
  }

  let waiting;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 150); });
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((d) => { d.open = true; });
    for (const element of plots.keys()) draw(element, element.closest(".panels") ? PRINT_PANEL : PRINT_WIDTH);
  });
  window.addEventListener("afterprint", () => { opened.forEach((d) => { d.open = false; }); drawAll(); });

  // The table
  const table = byId("rows"), body = table.tBodies[0], rows = [...body.rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((h) => h.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const numeric = head.classList.contains("n");
    const keys = new Map(rows.map((row) => {
      const cell = row.cells[column];
      return [row, numeric ? parseFloat(cell.dataset.v) : cell.textContent.trim()];
    }));
    // What has no number stays last either way.
    const order = (a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      if (!numeric) return (up ? 1 : -1) * x.localeCompare(y, "en");
      return Number.isNaN(x) - Number.isNaN(y) || (up ? x - y : y - x) || 0;
    };
    body.append(...[...rows].sort(order));
  }));
  byId("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !wanted.every((word) => texts[i].includes(word));
      shown += !row.hidden;
    });
    byId("shown").textContent = `${shown} of ${rows.length} rows`;
  });

  // The theme: the system's until the button is pressed
  const button = byId("theme"), root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  system.addEventListener("change", name);
  name();

  drawAll();
  document.documentElement.dataset.drawn = "yes";
})();
