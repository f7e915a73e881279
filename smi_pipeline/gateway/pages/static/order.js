"use strict";
// Follows an order: asks for its status, moves the bar, and loads the page anew when something else has changed.
(function () {
  const order = document.getElementById("order");
  const url = order.dataset.statusUrl;
  const revision = order.dataset.revision;
  let seconds = Number(order.dataset.pollAfter);
  let timer = null;

  function set(id, text) {
    const element = document.getElementById(id);
    if (element && element.textContent !== text) element.textContent = text;
  }

  async function look() {
    timer = null;
    try {
      const reply = await fetch(url, { cache: "no-store", headers: { Accept: "application/json" } });
      if (!reply.ok) throw new Error(String(reply.status));
      const { data } = await reply.json();
      if (data.revision !== revision) {
        location.reload();
        return;
      }
      const bar = document.getElementById("bar");
      if (bar) bar.value = data.progress;
      set("percent", String(data.progress));
      set("eta", data.eta_text);
      seconds = data.poll_after || 0;
      document.getElementById("trouble").hidden = true;
    } catch (error) {
      document.getElementById("trouble").hidden = false;
    }
    wait();
  }

  function wait() {
    if (seconds > 0 && !document.hidden && timer === null) timer = setTimeout(look, seconds * 1000);
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && timer === null && seconds > 0) look();
  });
  wait();
})();
