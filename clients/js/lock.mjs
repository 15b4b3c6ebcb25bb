/**
 * Write package-lock.json anew, without any address: where packages come from is the business of whoever installs them.
 * `npm run lock`; npm itself leaves out `resolved` (.npmrc), this leaves out what people put into their packages.
 *
 * package.json holds rollup at 4.64.10: of some later versions not every platform's binary can be had everywhere, and
 * then npm 11 calls the lock file incomplete. The last step asks npm whether it takes the file.
 */

import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";

const FILE = "package-lock.json";
const MODULES = ["node_modules", "sdk/node_modules", "app/node_modules"];

// With installed modules npm would leave out the binaries of other platforms.
for (const folder of MODULES) rmSync(folder, { recursive: true, force: true });
rmSync(FILE, { force: true });
execFileSync("npm", ["install", "--package-lock-only"], { stdio: "inherit" });

const lock = JSON.parse(readFileSync(FILE, "utf8"));
for (const entry of Object.values(lock.packages)) {
  delete entry.funding;
  delete entry.deprecated;
}
const text = JSON.stringify(lock, null, 2) + "\n";
if (/https?:/.test(text)) throw new Error(`${FILE} still contains an address`);
writeFileSync(FILE, text);
execFileSync("npm", ["ci", "--dry-run"], { stdio: ["ignore", "ignore", "inherit"] });
