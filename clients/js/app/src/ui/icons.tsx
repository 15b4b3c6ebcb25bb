/** The page's few drawings; all are decoration beside words. */

import type { ReactNode } from "react";

function Icon({ children, size = 20 }: { children: ReactNode; size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth="2"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
    >
      {children}
    </svg>
  );
}

export const Logo = () => (
  <svg className="logo" width="28" height="28" viewBox="0 0 32 32" aria-hidden="true">
    <rect width="32" height="32" rx="8" fill="currentColor" />
    <g className="logo-bars" strokeWidth="3" strokeLinecap="round">
      <path d="M8 14v4M13.3 9.5v13M18.6 12v8M24 14.5v3" />
    </g>
  </svg>
);

export const MicrophoneIcon = ({ size }: { size?: number }) => (
  <Icon {...(size === undefined ? {} : { size })}>
    <rect x="9" y="3" width="6" height="11" rx="3" />
    <path d="M5.5 11a6.5 6.5 0 0 0 13 0M12 17.5V21" />
  </Icon>
);

export const FileIcon = () => (
  <Icon>
    <path d="M14 3H7a1.5 1.5 0 0 0-1.5 1.5v15A1.5 1.5 0 0 0 7 21h10a1.5 1.5 0 0 0 1.5-1.5V7.5z" />
    <path d="M14 3v4.5h4.5M9 15v1M12 12.5v6M15 14.5v2" />
  </Icon>
);

export const SearchIcon = () => (
  <Icon size={18}>
    <circle cx="11" cy="11" r="6.5" />
    <path d="m16 16 4.5 4.5" />
  </Icon>
);

export const BackIcon = () => (
  <Icon>
    <path d="M15 5l-7 7 7 7" />
  </Icon>
);

export const PauseIcon = () => (
  <Icon>
    <path d="M9 6v12M15 6v12" />
  </Icon>
);

export const ResumeIcon = () => (
  <Icon>
    <path d="M8 5.5v13l10.5-6.5z" />
  </Icon>
);

export const StopIcon = () => (
  <Icon>
    <rect x="6.5" y="6.5" width="11" height="11" rx="1.5" fill="currentColor" />
  </Icon>
);

export const CopyIcon = () => (
  <Icon size={18}>
    <rect x="8.5" y="8.5" width="11.5" height="11.5" rx="2" />
    <path d="M5 15.5A1.5 1.5 0 0 1 4 14V5.5A1.5 1.5 0 0 1 5.5 4H14a1.5 1.5 0 0 1 1.5 1" />
  </Icon>
);

export const DownIcon = () => (
  <Icon size={18}>
    <path d="M12 5v14M6 13l6 6 6-6" />
  </Icon>
);

export const PlayIcon = ({ size }: { size?: number }) => (
  <Icon {...(size === undefined ? {} : { size })}>
    <path d="M8 5.5v13l10.5-6.5z" fill="currentColor" />
  </Icon>
);

export const BackFiveIcon = () => (
  <Icon>
    <path d="M4.5 12a7.5 7.5 0 1 0 2.4-5.5M4 4v4h4" />
    <path d="M13.5 9.5h-3l-.3 2.6c2-.7 3.6.2 3.6 1.7 0 1.7-2.3 2.3-3.7 1.1" strokeWidth="1.6" />
  </Icon>
);

export const ForwardFiveIcon = () => (
  <Icon>
    <path d="M19.5 12a7.5 7.5 0 1 1-2.4-5.500M20 4v4h-4" />
    <path d="M13.5 9.500h-3l-.3 2.600c2-.7 3.6.2 3.6 1.7 0 1.7-2.3 2.3-3.7 1.1" strokeWidth="1.6" />
  </Icon>
);

export const LinkIcon = () => (
  <Icon size={16}>
    <path d="M10 14a4 4 0 0 0 5.7 0l3.1-3.100a4 4 0 0 0-5.7-5.700L12 6.3" />
    <path d="M14 10a4 4 0 0 0-5.7 0l-3.1 3.100a4 4 0 0 0 5.7 5.700l1.1-1.1" />
  </Icon>
);

export const PencilIcon = () => (
  <Icon size={16}>
    <path d="M4.5 19.5l1-4.5L16 4.500l3.500 3.500L9 18.500zM13.5 7l3.500 3.500" />
  </Icon>
);

export const VolumeIcon = () => (
  <Icon>
    <path d="M4 9.500v5h3.500L12 18.500v-13L7.5 9.500zM15.5 9a4.2 4.2 0 0 1 0 6M18 6.500a7.8 7.8 0 0 1 0 11" />
  </Icon>
);

export const CloseIcon = () => (
  <Icon size={18}>
    <path d="M6 6l12 12M18 6 6 18" />
  </Icon>
);

export const ChevronIcon = () => (
  <Icon size={16}>
    <path d="m6 9.5 6 6 6-6" />
  </Icon>
);

export const BellIcon = () => (
  <Icon size={18}>
    <path d="M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 1.5h-15zM10 20.500a2.200 2.200 0 0 0 4 0" />
  </Icon>
);

export const FilterIcon = () => (
  <Icon size={16}>
    <path d="M4 7h16M7 12h10M10 17h4" />
  </Icon>
);

export const ClockIcon = () => (
  <Icon size={14}>
    <circle cx="12" cy="12" r="8" />
    <path d="M12 7.500V12l3 2" />
  </Icon>
);

export const AroundIcon = () => (
  <Icon size={18}>
    <path d="m8 8 4-4 4 4M5 12h14M8 16l4 4 4-4" />
  </Icon>
);

export const SunIcon = () => (
  <Icon>
    <circle cx="12" cy="12" r="4" />
    <path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6 7 7M17 17l1.4 1.400M5.6 18.4 7 17M17 7l1.4-1.4" />
  </Icon>
);

export const PersonIcon = () => (
  <Icon>
    <circle cx="12" cy="8.5" r="3.5" />
    <path d="M5 20a7 7 0 0 1 14 0" />
  </Icon>
);

export const ScreenIcon = () => (
  <Icon>
    <rect x="3" y="4.5" width="18" height="12" rx="2" />
    <path d="M9 20h6" />
  </Icon>
);
