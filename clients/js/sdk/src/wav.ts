/**
 * Read the WAV files that recorders write: RIFF, PCM of 8, 16, 24 or 32 bits or 32-bit float, any number of channels.
 *
 * Format: Microsoft "Multimedia Programming Interface and Data Specifications 1.0" (1991) and WAVE_FORMAT_EXTENSIBLE.
 * Pure. Anything else returns null, and the browser's own decoder is asked.
 */

/** `channels`: one Float32Array of samples in [-1, 1] for each. */
export interface DecodedAudio {
  sampleRate: number;
  channels: Float32Array[];
}

const PCM = 1;
const IEEE_FLOAT = 3;
const EXTENSIBLE = 0xfffe;

interface Format {
  kind: number;
  channels: number;
  sampleRate: number;
  bits: number;
}

export function parseWav(file: ArrayBuffer): DecodedAudio | null {
  const view = new DataView(file);
  if (file.byteLength < 12 || tag(view, 0) !== "RIFF" || tag(view, 8) !== "WAVE") return null;
  let format: Format | null = null;
  for (let at = 12; at + 8 <= file.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    const body = at + 8;
    if (tag(view, at) === "fmt " && size >= 16 && body + size <= file.byteLength) format = readFormat(view, body, size);
    if (tag(view, at) === "data") {
      if (!format) return null;
      // A recorder that was cut off leaves a size of 0 or one beyond the end: what is there counts.
      const rest = file.byteLength - body;
      return readSamples(view, body, size === 0 ? rest : Math.min(size, rest), format);
    }
    at = body + size + (size % 2);
  }
  return null;
}

function tag(view: DataView, at: number): string {
  return String.fromCharCode(view.getUint8(at), view.getUint8(at + 1), view.getUint8(at + 2), view.getUint8(at + 3));
}

function readFormat(view: DataView, at: number, size: number): Format {
  const kind = view.getUint16(at, true);
  return {
    // The extensible header repeats the format at the start of its 16-byte sub-format id.
    kind: kind === EXTENSIBLE && size >= 40 ? view.getUint16(at + 24, true) : kind,
    channels: view.getUint16(at + 2, true),
    sampleRate: view.getUint32(at + 4, true),
    bits: view.getUint16(at + 14, true),
  };
}

function readSamples(view: DataView, start: number, bytes: number, format: Format): DecodedAudio | null {
  const read = sampleReader(view, format);
  if (!read || format.channels === 0 || format.sampleRate === 0) return null;
  const width = format.bits / 8;
  const frames = Math.floor(bytes / (width * format.channels));
  const channels = Array.from({ length: format.channels }, () => new Float32Array(frames));
  let at = start;
  for (let frame = 0; frame < frames; frame += 1) {
    for (const channel of channels) {
      channel[frame] = read(at);
      at += width;
    }
  }
  return { sampleRate: format.sampleRate, channels };
}

function sampleReader(view: DataView, { kind, bits }: Format): ((at: number) => number) | null {
  if (kind === IEEE_FLOAT && bits === 32) return (at) => view.getFloat32(at, true);
  if (kind !== PCM) return null;
  if (bits === 8) return (at) => (view.getUint8(at) - 128) / 128;
  if (bits === 16) return (at) => view.getInt16(at, true) / 32768;
  if (bits === 24) return (at) => ((view.getInt8(at + 2) << 16) | view.getUint16(at, true)) / 8388608;
  if (bits === 32) return (at) => view.getInt32(at, true) / 2147483648;
  return null;
}
