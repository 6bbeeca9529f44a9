package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// The names of the levels, in order of precedence.
const (
	Global   = "global"
	Regional = "regional"
	Local    = "local"
)

var levelOrder = []string{Global, Regional, Local}

// Level is one author's policy, verified by the caller (see policy/bundle).
type Level struct {
	Name     string            // Global, Regional or Local
	Revision string            // shown with every decision, such as "7"
	Modules  map[string]string // path, such as "connect.rego" or "lib/names.rego", to source
	Data     map[string]any    // the root of data; whatever JSON can hold
	Schemas  map[string]string // path below schemas/, such as "schemas/order.json", to source (policy/schema)
	// Delegation is what allows of this level may cover. Its zero value covers nothing: the level
	// can then only deny.
	Delegation Delegation
	// Required makes the level deny everything once it has expired. Otherwise it only loses its
	// allows. (Config.Require says which levels may not be absent.)
	Required bool
	NotAfter time.Time // the level has expired after this; zero means never
	Signed   time.Time // when it was signed; rules see its age. Zero means unknown
	// Stale is what the level does while there is no news of it: empty, Freeze or DenyNew.
	Stale string
	// Measured says that somebody measured the level's steps before, such as whoever signed it, so
	// that Activate need not: a node that starts does not wait for that. MaxSteps bounds each
	// evaluation all the same.
	Measured bool
}

// What a level may do while there is no news of it (Level.Stale). Both are about connections that
// are new: the caller lets one that was admitted before go on (RuleStale).
const (
	Freeze  = "freeze"   // its allows of a connect no longer count
	DenyNew = "deny_new" // no connect is allowed
)

// Limits of one level.
const (
	MaxModules = 64
	MaxSource  = 1 << 20 // bytes of all modules and schemas
	MaxData    = 8 << 20 // bytes of data, as JSON
	MaxRules   = 1000
	MaxValues  = 1 << 18 // values in data: what one expression that looks at all of them may take
)

// SchemaDir is where a level's schemas of state live, beside its modules.
const SchemaDir = "schemas/"

// Errors of Engine.Activate and Check. Each names the level, and the file and line where there is
// one. The generation in force stays.
var (
	// ErrLevel: the name, a path or the data of a level is wrong.
	ErrLevel = errors.New("policy level is not valid")
	// ErrTooLarge: a limit of this package is exceeded.
	ErrTooLarge = errors.New("policy is too large")
	// ErrRegoV2: a module does not import rego.v2. Add the line "import rego.v2".
	ErrRegoV2 = errors.New("policy module must import rego.v2")
	// ErrPackage: a module's package is not one its level may write.
	ErrPackage = errors.New("policy module has a package its level may not write")
	// ErrRule: a rule breaks the contract of the package doc.
	ErrRule = errors.New("policy rule breaks the contract")
	// ErrSandbox: a module uses a function or keyword that policies do not have.
	ErrSandbox = errors.New("policy uses what policies may not use")
	// ErrCompile: a module does not parse or type-check; a misspelt field of input is the usual cause.
	ErrCompile = errors.New("policy does not compile")
)

// Delegation is the ceiling of a level: its allows count only where Covers is true. It is stated
// by the level above, never by the level itself.
type Delegation struct {
	All   bool   // covers everything: the global level
	Kinds []Kind // empty covers nothing
	// Regions are the labels it covers: of the caller (Dial), of the service (any other connect with
	// one, and any request), of the signer (state_admit), of this node (everything else). Empty
	// covers nothing.
	Regions []string
	// Services narrows connects and requests to these names; a trailing * stands for any rest. Empty
	// means every service of Regions.
	Services []string
}

// Covers reports whether an allow of the delegation's level may decide in.
func (d Delegation) Covers(in *Input) bool {
	if d.All {
		return true
	}
	if !slices.Contains(d.Kinds, in.Kind) {
		return false
	}
	switch {
	case in.Kind == StateAdmit:
		return in.Source != nil && d.region(in.Source.Region)
	case in.Kind == Connect && in.Service != nil && in.Action != nil && in.Action.Name == Dial:
		// The caller's region decides about going out only; the door stays the service's.
		return in.Source != nil && in.Self != nil && in.Source.Region == in.Self.Region && d.region(in.Source.Region) && d.service(in.Service.Name)
	case in.Kind == HTTPRequest, in.Kind == Connect && in.Service != nil:
		return in.Service != nil && d.region(in.Service.Region) && d.service(in.Service.Name)
	}
	return in.Self != nil && d.region(in.Self.Region)
}

func (d Delegation) region(label string) bool {
	return label != "" && slices.Contains(d.Regions, label)
}

func (d Delegation) service(name string) bool {
	return len(d.Services) == 0 || slices.ContainsFunc(d.Services, func(s string) bool {
		if prefix, ok := strings.CutSuffix(s, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return s == name
	})
}

// expired reports whether the level's end has passed when in is asked.
func (l *Level) expired(in *Input) bool {
	return !l.NotAfter.IsZero() && time.Unix(in.Time.Unix, 0).After(l.NotAfter)
}

// check refuses a level by its outer form and returns its data as JSON.
func (l *Level) check() ([]byte, error) {
	if !slices.Contains(levelOrder, l.Name) {
		return nil, fmt.Errorf("%w: name %q is not one of %v", ErrLevel, l.Name, levelOrder)
	}
	if len(l.Modules) > MaxModules {
		return nil, fmt.Errorf("%w: %s has %d modules, at most %d", ErrTooLarge, l.Name, len(l.Modules), MaxModules)
	}
	size := 0
	for p, src := range l.Modules {
		if size += len(src); size > MaxSource {
			return nil, fmt.Errorf("%w: the modules of %s have more than %d bytes", ErrTooLarge, l.Name, MaxSource)
		}
		if p != path.Clean(p) || path.IsAbs(p) || strings.HasPrefix(p, "..") || path.Ext(p) != ".rego" || len(p) > 256 {
			return nil, fmt.Errorf("%w: module path %q of %s, want a clean relative path ending in .rego", ErrLevel, p, l.Name)
		}
	}
	for p, src := range l.Schemas {
		if size += len(src); size > MaxSource {
			return nil, fmt.Errorf("%w: the modules and schemas of %s have more than %d bytes", ErrTooLarge, l.Name, MaxSource)
		}
		if p != path.Clean(p) || !strings.HasPrefix(p, SchemaDir) || path.Ext(p) != ".json" || len(p) > 256 {
			return nil, fmt.Errorf("%w: schema path %q of %s, want a clean path below %s ending in .json", ErrLevel, p, l.Name, SchemaDir)
		}
	}
	if _, ok := l.Data["bailiwick"]; ok {
		return nil, fmt.Errorf("%w: data of %s has the key \"bailiwick\", where the rules live; rename it", ErrLevel, l.Name)
	}
	data := []byte("{}")
	if len(l.Data) > 0 {
		var err error
		if data, err = json.Marshal(l.Data); err != nil {
			return nil, fmt.Errorf("%w: data of %s: %v", ErrLevel, l.Name, err)
		}
	}
	if len(data) > MaxData {
		return nil, fmt.Errorf("%w: data of %s has %d bytes, at most %d", ErrTooLarge, l.Name, len(data), MaxData)
	}
	return data, nil
}

// digest is over what the answers of a level depend on.
func (l *Level) digest(data []byte) [32]byte {
	h := sha256.New()
	put := func(s string) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	put(l.Name)
	for _, p := range slices.Sorted(maps.Keys(l.Modules)) {
		put(p)
		put(l.Modules[p])
	}
	put(string(data))
	for _, p := range slices.Sorted(maps.Keys(l.Schemas)) {
		put(p)
		put(l.Schemas[p])
	}
	return [32]byte(h.Sum(nil))
}

// plainData refuses data in which a single step could take long: too many values, or a number with
// thousands of digits.
func plainData(level string, data any) error {
	left := MaxValues
	var look func(v any, at string) error
	look = func(v any, at string) error {
		if left--; left < 0 {
			return fmt.Errorf("%w: data of %s has more than %d values", ErrTooLarge, level, MaxValues)
		}
		switch v := v.(type) {
		case json.Number:
			if hugeNumber(string(v)) {
				return fmt.Errorf("%w: data of %s: %s: the number %.40s is too large", ErrLevel, level, at, string(v))
			}
		case []any:
			for i, x := range v {
				if err := look(x, fmt.Sprintf("%s[%d]", at, i)); err != nil {
					return err
				}
			}
		case map[string]any:
			for k, x := range v {
				if err := look(x, at+"."+k); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return look(data, "data")
}
