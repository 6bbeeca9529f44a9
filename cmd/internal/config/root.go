package config

// RootMode is disk or tpm.
type RootMode string

// Where the key of an SVID root may be.
const (
	RootOnDisk RootMode = "disk"
	RootInTPM  RootMode = "tpm"
)

// UnmarshalText reads a mode.
func (m *RootMode) UnmarshalText(b []byte) error {
	s, err := oneOf(b, string(RootOnDisk), string(RootInTPM))
	*m = RootMode(s)
	return err
}
