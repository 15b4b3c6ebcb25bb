/** The microphones of this device, as a list to choose from. */

import { watchMicrophones, type Microphone } from "@parlance/client";
import { useEffect, useState } from "react";
import type { Choice } from "../ui/Picker.js";

/** `refresh` changes when names may have become known: browsers tell them only after a permission. */
export function useMicrophones(refresh: unknown): Choice[] {
  const [found, setFound] = useState<Microphone[]>([]);
  useEffect(() => watchMicrophones(setFound), [refresh]);
  return microphoneChoices(found);
}

export function microphoneChoices(found: readonly Microphone[]): Choice[] {
  const others = found.filter(({ deviceId }) => deviceId !== "default" && deviceId !== "communications");
  const named = others.map(({ deviceId, label }, at) => ({ id: deviceId, name: label || `Microphone ${at + 1}` }));
  return [{ id: "default", name: "Default" }, ...named];
}
