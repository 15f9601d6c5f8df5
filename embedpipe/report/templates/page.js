"use strict";
(() => {
  // Tooltips: native titles are slow and cannot be styled; without this script they still work.
  const tip = document.getElementById("tip");
  for (const title of document.querySelectorAll("main svg title")) {
    const owner = title.parentNode;
    owner.dataset.tip = title.textContent;
    title.remove();
  }
  const show = (event) => {
    const owner = event.target.closest ? event.target.closest("[data-tip]") : null;
    if (!owner || !owner.dataset.tip) { tip.hidden = true; return; }
    tip.textContent = owner.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const y = event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18;
    tip.style.left = Math.max(8, x) + "px";
    tip.style.top = y + "px";
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  const holder = document.getElementById("leaderboard-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const TASK = 0, K = 1, ROLE = 2, ARM = 3, DRAWS = 4, FLAGS = 5, PARAMS = 6, NOTE = 7, VAL = 8, TEST = 9;
  const DASH = "\u2013";
  const words = JSON.parse(document.getElementById("role-words").textContent);
  const byId = (id) => document.getElementById(id);
  const body = byId("board-body"), table = byId("board");
  const filters = { task: byId("f-task"), k: byId("f-k"), role: byId("f-role"), text: byId("f-text") };
  const state = { sort: null, down: true, shown: data.show };
  const haystack = data.rows.map((row) => [
    row[ARM], data.texts[row[PARAMS]], data.texts[row[NOTE]], words[data.roles[row[ROLE]]],
    row[FLAGS] & 1 ? "selected" : "", row[FLAGS] & 2 ? "baseline" : "",
  ].join("\n").toLowerCase());

  const minus = (text) => {
    if (!text.startsWith("-")) return text;
    return /[1-9]/.test(text) ? "\u2212" + text.slice(1) : text.slice(1);
  };
  const plain = (x) => {
    const size = Math.abs(x);
    if (size === 0) return "0.000";
    if (size >= 0.0005 && size < 1000) return minus(x.toFixed(3));
    return minus(Number(x.toPrecision(3)).toString());
  };
  const number = (metric, x, unit = true) => {
    if (x === null || x === undefined) return DASH;
    if (!metric || !metric.percent) return plain(x);
    return minus((x * 100).toFixed(1)) + (unit ? "\u202f%" : "");
  };
  const interval = (metric, score) =>
    score && score.length === 3 ? `${number(metric, score[1], false)} to ${number(metric, score[2])}` : DASH;
  const main = (row, part) => {
    const at = data.tasks[row[TASK]].metric;
    return row[part] && at >= 0 ? row[part][at] : null;
  };
  const add = (parent, name, className, text) => {
    const child = parent.appendChild(document.createElement(name));
    if (className) child.className = className;
    if (text !== undefined) child.textContent = text;
    return child;
  };
  const draw = (cell, score, [low, high]) => {
    const place = (x) => Math.min(Math.max((x - low) / (high - low), 0), 1) * 100;
    const bar = add(cell, "i", "bar"), span = add(bar, "i"), mark = add(bar, "b");
    const ends = score.map(place);
    const start = Math.min(...ends), end = Math.max(...ends);
    span.style.left = start.toFixed(1) + "%";
    span.style.width = (end - start).toFixed(1) + "%";
    mark.style.left = place(score[0]).toFixed(1) + "%";
  };

  const range = (rows, metric) => {
    const arms = rows.filter((row) => !(row[FLAGS] & 2));
    let low = Infinity, high = -Infinity;
    for (const row of arms.length ? arms : rows) {
      for (const x of main(row, VAL) || []) { low = Math.min(low, x); high = Math.max(high, x); }
    }
    if (low > high) return [0, 1];
    if (metric.floor !== null && low < metric.floor && metric.floor < high) low = metric.floor;
    const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.05;
    low -= margin;
    high += margin;
    return metric.percent ? [Math.max(low, 0), Math.min(high, 1)] : [low, high];
  };

  const build = (row, ranges) => {
    const line = document.createElement("tr");
    const task = data.tasks[row[TASK]], metric = data.metrics[task.metric];
    const role = data.roles[row[ROLE]];
    line.className = (row[FLAGS] & 1 ? "selected " : "") + (row[FLAGS] & 2 ? "baseline" : "");
    const arm = add(line, "td", "arm");
    const name = add(arm, "bdi", "mono");
    row[ARM].split(/(?<=[@/._])/).forEach((part, i) => {
      if (i) add(name, "wbr");
      name.append(part);
    });
    if (row[FLAGS] & 1) { arm.append(" "); add(arm, "span", "pill chosen", "selected"); }
    if (row[FLAGS] & 2) { arm.append(" "); add(arm, "span", "pill", "baseline"); }
    const params = data.texts[row[PARAMS]], note = data.texts[row[NOTE]];
    if (params) add(arm, "small", "", params);
    if (note) add(arm, "small", "note", note);
    add(line, "td", "col-task", task.name);
    add(add(line, "td", "role"), "span", "dot r-" + role, words[role]);
    add(line, "td", "num", row[K]);
    add(line, "td", "num wide", row[DRAWS] === null ? DASH : String(row[DRAWS]));
    const val = main(row, VAL);
    const score = add(line, "td", "score");
    add(score, "strong", "", number(metric, val ? val[0] : null));
    add(score, "small", "", interval(metric, val));
    if (val) draw(score, val, ranges[row[TASK]]);
    data.metrics.forEach((other, i) => {
      const cell = add(line, "td", "num wide m" + i);
      cell.textContent = number(other, row[VAL] && row[VAL][i] ? row[VAL][i][0] : null);
    });
    const test = add(line, "td", "num test");
    if (!row[TEST]) add(test, "span", "sealed", "sealed");
    else {
      const opened = main(row, TEST);
      add(test, "strong", "", number(metric, opened ? opened[0] : null));
      if (opened && opened.length === 3) add(test, "small", "", interval(metric, opened));
    }
    return line;
  };

  const kValue = (k) => (k === "all" ? Infinity : isNaN(Number(k)) ? -1 : Number(k));
  const keys = {
    arm: (row) => row[ARM],
    task: (row) => row[TASK],
    role: (row) => row[ROLE],
    k: (row) => kValue(row[K]),
    draws: (row) => row[DRAWS],
    score: (row) => { const score = main(row, VAL); return score ? score[0] : null; },
    test: (row) => { const score = main(row, TEST); return score ? score[0] : null; },
  };
  data.metrics.forEach((_, i) => {
    keys["m" + i] = (row) => (row[VAL] && row[VAL][i] ? row[VAL][i][0] : null);
  });

  const update = () => {
    const task = filters.task.value, k = filters.k.value, role = filters.role.value;
    const wanted = filters.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    data.rows.forEach((row, i) => {
      if (task !== "" && row[TASK] !== Number(task)) return;
      if (k !== "" && row[K] !== k) return;
      if (role !== "" && data.roles[row[ROLE]] !== role) return;
      if (wanted.every((word) => haystack[i].includes(word))) found.push([i, row]);
    });
    if (state.sort) {
      const key = keys[state.sort], sign = state.down ? -1 : 1;
      found.sort(([i, a], [j, b]) => {
        const x = key(a), y = key(b);
        if (x === y) return i - j;
        if (x === null || x === undefined) return 1;  // what is unknown comes last either way
        if (y === null || y === undefined) return -1;
        return (x < y ? -1 : 1) * sign;
      });
    }
    const shown = found.slice(0, state.shown).map(([, row]) => row);
    const ranges = data.tasks.map((each, i) =>
      range(shown.filter((row) => row[TASK] === i), data.metrics[each.metric] || { floor: null }));
    body.replaceChildren(...shown.map((row) => build(row, ranges)));
    table.classList.toggle("one-task", task !== "" || data.tasks.length < 2);
    const one = task === "" ? null : data.tasks[Number(task)];
    data.metrics.forEach((_, i) => {
      const used = found.some(([, row]) => row[VAL] && row[VAL][i]) && !(one && one.metric === i);
      table.classList.toggle("no-m" + i, !used);
    });
    const metric = one ? data.metrics[one.metric] : null;
    byId("score-name").textContent = metric ? metric.label : "Score";
    byId("board-count").textContent = found.length
      ? `${Math.min(state.shown, found.length)} of ${found.length} rows shown`
      : "No row matches these filters.";
    byId("board-more").hidden = found.length <= state.shown;
    for (const head of table.querySelectorAll("th[data-key]")) {
      const on = head.dataset.key === state.sort;
      head.setAttribute("aria-sort", on ? (state.down ? "descending" : "ascending") : "none");
    }
  };
  const lowerFirst = (key) => {
    if (key === "arm" || key === "task" || key === "role" || key === "k") return true;
    if (key.startsWith("m")) return data.metrics[Number(key.slice(1))].lower;
    if (filters.task.value === "") return false;
    const metric = data.metrics[data.tasks[Number(filters.task.value)].metric];
    return Boolean(metric && metric.lower);
  };
  for (const head of table.querySelectorAll("th[data-key]")) {
    head.querySelector("button").addEventListener("click", () => {
      const key = head.dataset.key;
      state.down = state.sort === key ? !state.down : !lowerFirst(key);
      state.sort = key;
      update();
    });
  }
  for (const control of Object.values(filters)) {
    control.addEventListener("input", () => { state.shown = data.show; update(); });
  }
  byId("board-more").addEventListener("click", () => { state.shown *= 4; update(); });
  for (const link of document.querySelectorAll("a[data-board-task]")) {
    link.addEventListener("click", () => {
      filters.task.value = link.dataset.boardTask;
      filters.k.value = filters.role.value = filters.text.value = "";
      state.shown = data.show;
      update();
    });
  }
  byId("board-controls").hidden = false;
  update();
})();
