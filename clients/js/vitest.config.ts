import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  // Tests run on the sources: no build is needed before them.
  resolve: { alias: { "@parlance/client": fileURLToPath(new URL("./sdk/src/index.ts", import.meta.url)) } },
  test: { include: ["sdk/test/**/*.test.ts", "app/test/**/*.test.ts"], testTimeout: 20_000 },
});
