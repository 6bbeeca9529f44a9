package authority

import (
	"errors"
	"fmt"
)

// Level is the rank of an authority. The zero value is none and outranks nobody.
type Level uint8

const (
	Autonomous Level = iota + 1 // a node deciding for itself while cut off
	Local                       // a zone or site
	Regional                    // a trust domain
	Global                      // the fleet
)

var levelNames = [...]string{"", "autonomous", "local", "regional", "global"}

// ErrLevel means a level is none of global, regional, local, autonomous.
var ErrLevel = errors.New("authority level must be global, regional, local or autonomous")

// ParseLevel reads a level's name. Errors wrap ErrLevel.
func ParseLevel(s string) (Level, error) {
	for i, name := range levelNames {
		if i > 0 && name == s {
			return Level(i), nil
		}
	}
	return 0, fmt.Errorf("%w, not %q", ErrLevel, s)
}

// String returns the level's name, empty for none.
func (l Level) String() string {
	if int(l) >= len(levelNames) {
		return fmt.Sprintf("level(%d)", uint8(l))
	}
	return levelNames[l]
}

// MarshalText and UnmarshalText write and read the name, also in JSON.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

func (l *Level) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLevel(string(b))
	return err
}
