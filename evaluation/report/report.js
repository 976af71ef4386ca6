"use strict";
// Slice viewers, keyboard ways through the plots, and what a point says when it is pointed at.
(() => {
  const cases = JSON.parse(document.getElementById("data").textContent);
  for (const note of document.querySelectorAll(".no-script")) note.remove();

  const show = (svg, position) => {
    const data = cases[svg.dataset.case];
    const outlines = data.outlines[svg.dataset.region];
    const text = `slice ${data.slices[position] + 1} of ${data.total}`;
    svg.querySelector("image").setAttribute("href", data.images[position]);
    for (const kind of ["ref", "pred"]) {
      const path = outlines[kind] ? outlines[kind][position] : "";
      for (const line of svg.querySelectorAll(`.${kind} path`)) line.setAttribute("d", path);
    }
    svg.setAttribute("aria-label", `${svg.dataset.alt}, ${text}`);
    return text;
  };

  for (const svg of document.querySelectorAll("svg.slice")) {
    const slider = svg.closest(".card").querySelector("[data-viewer]");
    const update = () => {
      const text = show(svg, slider.valueAsNumber);
      slider.setAttribute("aria-valuetext", text);
      slider.parentElement.querySelector("output").textContent = text;
    };
    if (slider) {
      // a reloaded page keeps the slider where it was: the picture follows it
      slider.addEventListener("input", update);
      update();
    } else {
      show(svg, 0);
    }
  }

  for (const box of document.querySelectorAll("[data-toggle]")) {
    const update = () =>
      document.body.classList.toggle(`hide-${box.dataset.toggle}`, !box.checked);
    box.addEventListener("change", update);
    update();
  }

  const mark = (dot, on) => {
    const key = dot.dataset.case;
    if (!key) return;
    for (const other of document.querySelectorAll(`.dot[data-case="${key}"]`)) {
      other.classList.toggle("same", on);
    }
  };

  const go = (rows, dot, key) => {
    const row = rows.findIndex((dots) => dots.includes(dot));
    const place = rows[row].indexOf(dot);
    const last = rows[row].length - 1;
    if (key === "ArrowRight") return rows[row][Math.min(place + 1, last)];
    if (key === "ArrowLeft") return rows[row][Math.max(place - 1, 0)];
    if (key === "Home") return rows[row][0];
    if (key === "End") return rows[row][last];
    const step = { ArrowDown: 1, ArrowUp: -1 }[key];
    const next = step && rows[row + step];
    return next ? next[Math.min(place, next.length - 1)] : null;
  };

  for (const figure of document.querySelectorAll("figure.points")) {
    const readout = figure.querySelector(".readout");
    const rows = [...figure.querySelectorAll(".row")]
      .map((row) => [...row.querySelectorAll(".dot")])
      .filter((dots) => dots.length);
    const dots = rows.flat();
    // one stop of the tab key a plot, wherever its first case is
    dots.forEach((dot, index) => dot.setAttribute("tabindex", index ? "-1" : "0"));
    for (const dot of dots) {
      const say = () => {
        readout.textContent = dot.getAttribute("aria-label");
        mark(dot, true);
      };
      for (const event of ["pointerenter", "focus"]) dot.addEventListener(event, say);
      for (const event of ["pointerleave", "blur"]) {
        dot.addEventListener(event, () => mark(dot, false));
      }
      dot.addEventListener("click", () => dot.focus());
      dot.addEventListener("keydown", (event) => {
        const next = go(rows, dot, event.key);
        if (!next) return;
        event.preventDefault();
        dot.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    }
  }
})();
