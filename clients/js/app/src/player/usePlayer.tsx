/** The player for every component below. */

import { createContext, useContext, useEffect, useMemo, useRef, useState, useSyncExternalStore, type ReactNode } from "react";
import { mediaTicket } from "../api.js";
import { Player, type PlayerState } from "./player.js";

const Shared = createContext<Player | null>(null);

/** `children` are shown as soon as the element exists. */
export function PlayerProvider({ token, children }: { token: string; children: ReactNode }) {
  const [audio, setAudio] = useState<HTMLAudioElement | null>(null);
  const latest = useRef(token);
  latest.current = token;
  const player = useMemo(
    () => audio && new Player(audio, (recordingId) => mediaTicket(latest.current, recordingId)),
    [audio],
  );
  useEffect(() => () => player?.close(), [player]);
  return (
    <>
      <audio ref={setAudio} preload="metadata" hidden />
      {player && <Shared.Provider value={player}>{children}</Shared.Provider>}
    </>
  );
}

export function usePlayer(): Player {
  return useContext(Shared)!;
}

/** Changes four times a second while it plays. */
export function usePlayerState(): PlayerState {
  const player = usePlayer();
  return useSyncExternalStore(player.subscribe, () => player.state);
}

/** The place that is heard now, sixty times a second while it plays; renders only when `of` gives something else. */
export function usePlace<T extends string | number | null>(recordingId: string, of: (ms: number) => T): T | null {
  const player = usePlayer();
  const [value, setValue] = useState<T | null>(null);
  const latest = useRef(of);
  latest.current = of;
  useEffect(() => {
    let frame = 0;
    const look = (): void => {
      const { track, isPlaying, isStarted } = player.state;
      const isHere = track?.recordingId === recordingId && isStarted;
      setValue(isHere ? latest.current(player.positionMs) : null);
      cancelAnimationFrame(frame);
      if (isHere && isPlaying) frame = requestAnimationFrame(look);
    };
    look();
    const unsubscribe = player.subscribe(look);
    return () => {
      unsubscribe();
      cancelAnimationFrame(frame);
    };
  }, [player, recordingId]);
  return value;
}
