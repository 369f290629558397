// Light or dark, before anything is drawn: what was chosen here last, else what the system says.
"use strict";
{
  const KEY = "ollama-proxy.theme";
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    chosen = null; // a browser that keeps nothing shows what the system says
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
