package config

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Path is a file or folder, made absolute when the file is read.
type Path string

// Hash is a SHA-256 value, written as 64 hex digits.
type Hash [32]byte

// UnmarshalText reads 64 hex digits.
func (h *Hash) UnmarshalText(b []byte) error {
	if n, err := hex.Decode(h[:], b); err != nil || n != len(h) || len(b) != 2*len(h) {
		return fmt.Errorf("want 64 hex digits (SHA-256)")
	}
	return nil
}

// IsZero reports whether the field was not set.
func (h Hash) IsZero() bool { return h == Hash{} }

// String returns the hex digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

type (
	// TPMMode is auto, required or off.
	TPMMode string
	// DegradedMode is renew-only, deny-new or deny-all.
	DegradedMode string
	// LogLevel is debug, info, warn or error.
	LogLevel string
	// LogFormat is text or json.
	LogFormat string
)

func oneOf(b []byte, values ...string) (string, error) {
	if slices.Contains(values, string(b)) {
		return string(b), nil
	}
	return "", fmt.Errorf("want one of %s", strings.Join(values, ", "))
}

func (m *TPMMode) UnmarshalText(b []byte) error {
	s, err := oneOf(b, "auto", "required", "off")
	*m = TPMMode(s)
	return err
}

func (m *DegradedMode) UnmarshalText(b []byte) error {
	s, err := oneOf(b, "renew-only", "deny-new", "deny-all")
	*m = DegradedMode(s)
	return err
}

func (l *LogLevel) UnmarshalText(b []byte) error {
	s, err := oneOf(b, "debug", "info", "warn", "error")
	*l = LogLevel(s)
	return err
}

func (f *LogFormat) UnmarshalText(b []byte) error {
	s, err := oneOf(b, "text", "json")
	*f = LogFormat(s)
	return err
}

// Slog returns the level as log/slog knows it.
func (l LogLevel) Slog() slog.Level {
	return map[LogLevel]slog.Level{"debug": slog.LevelDebug, "warn": slog.LevelWarn, "error": slog.LevelError}[l]
}
