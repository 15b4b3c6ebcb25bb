import { defineConfig } from "vite";

const SERVER = "http://127.0.0.1:8000";

export default defineConfig({
  esbuild: { jsx: "automatic" },
  build: {
    target: "es2022",
    // Every asset is a file of its own: the page needs no data: or inline code, so a strict content policy fits it.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700,
  },
  server: {
    proxy: {
      "/socket.io": { target: SERVER, ws: true, changeOrigin: true, rewriteWsOrigin: true },
      "/v1": SERVER,
    },
  },
});
