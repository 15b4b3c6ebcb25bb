/** A recording's player: under its transcript, or small beside the search. */

import { Button, Slider, SliderThumb, SliderTrack } from "react-aria-components";
import { clock } from "../shell/format.js";
import { hrefOf } from "../shell/route.js";
import { BackFiveIcon, CloseIcon, ForwardFiveIcon, PauseIcon, PlayIcon, VolumeIcon } from "../ui/icons.js";
import { IconButton } from "../ui/IconButton.js";
import { Picker } from "../ui/Picker.js";
import type { Track } from "./player.js";
import { usePlayer, usePlayerState } from "./usePlayer.js";

export const STEP_MS = 5_000;

const RATES = [0.75, 1, 1.25, 1.5, 2].map((rate) => ({ id: String(rate), name: `${rate}×` }));

export function PlayerBar({ track }: { track: Track }) {
  const player = usePlayer();
  const state = usePlayerState();
  const isHere = state.track?.recordingId === track.recordingId;
  const positionMs = isHere ? state.positionMs : 0;
  const seek = (ms: number): void => {
    if (!isHere) player.cue(track, ms);
    else player.seek(ms);
  };
  return (
    <section className="player" aria-label="Player">
      <div className="player-buttons">
        <IconButton label="Back 5 seconds" onPress={() => seek(positionMs - STEP_MS)}>
          <BackFiveIcon />
        </IconButton>
        <PlayButton track={track} />
        <IconButton label="Forward 5 seconds" onPress={() => seek(positionMs + STEP_MS)}>
          <ForwardFiveIcon />
        </IconButton>
      </div>
      <Place positionMs={positionMs} lengthMs={track.lengthMs} onSeek={seek} />
      <div className="player-settings">
        <Picker
          label="Speed"
          isCompact
          choices={RATES}
          value={String(state.rate)}
          onChange={(rate) => player.setRate(Number(rate))}
        />
        <Slider
          className="volume"
          aria-label="Volume"
          minValue={0}
          maxValue={100}
          value={Math.round(state.volume * 100)}
          onChange={(volume) => player.setVolume(volume / 100)}
        >
          <VolumeIcon />
          <Rail />
        </Slider>
      </div>
      {isHere && state.error !== null && (
        <p className="error" role="alert">
          {state.error}
        </p>
      )}
    </section>
  );
}

/** What is played while another page is shown. */
export function MiniPlayer({ shown }: { shown: string | null }) {
  const player = usePlayer();
  const { track, isStarted, isWaiting, positionMs, error } = usePlayerState();
  if (!track || track.recordingId === shown || !(isStarted || isWaiting || error !== null)) return null;
  return (
    <section className="player mini" aria-label="Player">
      <PlayButton track={track} />
      <div className="mini-middle">
        <a href={hrefOf(track.recordingId, { atMs: positionMs })}>{track.title || "Untitled recording"}</a>
        <Place positionMs={positionMs} lengthMs={track.lengthMs} onSeek={(ms) => player.seek(ms)} />
      </div>
      <IconButton label="Close the player" onPress={() => player.close()}>
        <CloseIcon />
      </IconButton>
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
    </section>
  );
}

function PlayButton({ track }: { track: Track }) {
  const player = usePlayer();
  const state = usePlayerState();
  const isActive = state.track?.recordingId === track.recordingId && (state.isPlaying || state.isWaiting);
  return (
    <Button
      className="button icon play"
      aria-label={isActive ? "Pause" : "Play"}
      onPress={() => (isActive ? player.pause() : player.play(track))}
    >
      {isActive ? <PauseIcon /> : <PlayIcon />}
    </Button>
  );
}

interface PlaceProps {
  positionMs: number;
  lengthMs: number;
  onSeek: (ms: number) => void;
}

function Place({ positionMs, lengthMs, onSeek }: PlaceProps) {
  const lengthS = Math.max(1, Math.ceil(lengthMs / 1000));
  return (
    <div className="place">
      <time>{clock(positionMs)}</time>
      <Slider
        className="seek"
        aria-label="Position"
        minValue={0}
        maxValue={lengthS}
        step={1}
        value={Math.min(lengthS, Math.floor(positionMs / 1000))}
        onChange={(seconds) => onSeek(seconds * 1000)}
        formatOptions={{ style: "unit", unit: "second", unitDisplay: "long" }}
      >
        <Rail />
      </Slider>
      <time>{clock(lengthMs)}</time>
    </div>
  );
}

function Rail() {
  return (
    <SliderTrack className="track">
      {({ state }) => (
        <>
          <span className="track-filled" style={{ width: `${state.getThumbPercent(0) * 100}%` }} />
          <SliderThumb className="thumb" />
        </>
      )}
    </SliderTrack>
  );
}
