"""The sections of a postmortem (Google's SRE book), one file each: what data says, and questions for what it cannot."""
