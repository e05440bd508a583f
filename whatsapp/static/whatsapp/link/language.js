// @ts-check
// Runs before anything is painted. The marketplace may say in the token which language
// the salon speaks; the token is in the fragment, so the server could not know.
"use strict";

(() => {
  const page = document.documentElement;
  if (new URLSearchParams(location.search).has("lang")) return;
  try {
    const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const wish = JSON.parse(atob(claims)).language;
    if (["ru", "en"].includes(wish) && wish !== page.lang) page.dataset.wish = wish;
  } catch {
    // The server will say what is wrong with it.
  }
})();
