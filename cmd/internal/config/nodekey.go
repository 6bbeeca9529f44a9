package config

// NodeKeyMode is resident or attested.
type NodeKeyMode string

// The modes of a node key.
const (
	Resident NodeKeyMode = "resident"
	InMemory NodeKeyMode = "attested"
)

// UnmarshalText reads a mode.
func (m *NodeKeyMode) UnmarshalText(b []byte) error {
	s, err := oneOf(b, string(Resident), string(InMemory))
	*m = NodeKeyMode(s)
	return err
}
