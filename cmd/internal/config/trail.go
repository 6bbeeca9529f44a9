package config

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Trail is what this node does for the trails of others, and they for its own.
type Trail struct {
	// Retention is how long leaves are kept here: days, from 1d to 36500d. Then the oldest go, 256
	// at a time; their hashes stay, so that proofs stay valid. It is for the trails of all
	// epochs; of a copy that this node keeps, leaves go once both its owner and this node no longer
	// keep them. One rule for all kinds of leaves, that of the kind which is needed longest: see
	// package trail, and Payloads for what goes earlier. Default: for ever.
	Retention Days `yaml:"retention"`

	// Hold keeps everything while it is set, whatever its age, however much room decisions take, and
	// whoever asks for it to be erased: a legal hold. True, or better the name of the case, which
	// refusals and the trail tell. Default false.
	Hold Hold `yaml:"hold"`

	// Payloads is how long what decisions were about is kept, by their kind: then its keys go. A kind that
	// is in none of them is kept as long as its decision. Not while Hold is set.
	Payloads []PayloadRetention `yaml:"payloads"`

	Custody Custody `yaml:"custody"`

	// OTLP sends the trail to a log collector. Default: nowhere.
	OTLP *OTLP `yaml:"otlp"`
}

// PayloadRetention is how long payloads of some kinds are kept.
type PayloadRetention struct {
	Kinds []policy.Kind `yaml:"kinds"` // of decisions; each at most once in the file
	For   Days          `yaml:"for"`   // whole UTC days, besides that of the decision
}

// Hold is the name of a legal hold; empty where there is none.
type Hold string

const maxHold = 200 // bytes

// UnmarshalText reads true, false, or a name.
func (h *Hold) UnmarshalText(b []byte) error {
	switch s := string(b); {
	case s == "false":
		*h = ""
	case s == "true":
		*h = "trail.hold"
	case strings.TrimSpace(s) != s || s == "" || len(s) > maxHold || strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("want true, false, or the name of a case of at most %d bytes", maxHold)
	default:
		*h = Hold(s)
	}
	return nil
}

// OTLP is an OpenTelemetry collector that gets a copy of this node's trail as log records, as it grows
// (OTLP/HTTP, JSON). Nothing waits for it: what it does not have yet is read from disk once it answers. What it
// gets leaves the node, and maybe the region: that is for whoever sets it to answer for.
type OTLP struct {
	// Endpoint is the collector's logs endpoint, https://host:4318/v1/logs; http only at a
	// loopback address. Required.
	Endpoint Collector `yaml:"endpoint"`

	// Roots is a PEM file with the certificates that the collector's is verified with. Default: the system's.
	Roots Path `yaml:"roots"`

	// TokenFile holds a bearer token. It is read for each request.
	TokenFile Path `yaml:"token_file"`

	// Decisions sends recorded decisions too, behind the leaf that names their segment: as they were
	// masked, and with what is sealed opened, so that erasing here does not reach it. Default false.
	Decisions bool `yaml:"decisions"`
}

// Collector is the URL of a log collector.
type Collector string

// UnmarshalText reads a collector's URL.
func (c *Collector) UnmarshalText(b []byte) error {
	*c = Collector(b)
	u, err := url.Parse(string(b))
	if err == nil && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" {
		ip, iperr := netip.ParseAddr(u.Hostname())
		if local := u.Hostname() == "localhost" || iperr == nil && ip.IsLoopback(); u.Scheme == "https" || u.Scheme == "http" && local {
			return nil
		}
	}
	return errCollector
}

var errCollector = errors.New("want https://host:port/v1/logs, without a user; http only at a loopback address")

// Days is a number of days.
type Days int

var days = regexp.MustCompile(`^([1-9][0-9]{0,4})d$`)

const mostDays = 36500

// UnmarshalText reads a number of days.
func (n *Days) UnmarshalText(b []byte) error {
	if m := days.FindSubmatch(b); m != nil {
		if v, err := strconv.Atoi(string(m[1])); err == nil && v <= mostDays {
			*n = Days(v)
			return nil
		}
	}
	return fmt.Errorf("want 1d to %dd, like 400d", mostDays)
}

// Duration is so many times 24 hours.
func (n Days) Duration() time.Duration { return time.Duration(n) * 24 * time.Hour }

// Custody is the keeping of copies of other nodes' trails, and of the decisions that they name, under
// <state>/custody. Which nodes keep whose copies follows from the roster: in a region all should say
// the same. Copies never leave the region.
type Custody struct {
	// Every is the time between two looks at a trail that is copied here: 1s to 24h, or 0 to keep no
	// copies and give none. Default 5m.
	Every Interval `yaml:"every"`

	// Copies is how many other nodes keep a copy of each trail: 1 to 8, where there are as many.
	// As far as possible they are in other zones than its owner. Default 3.
	Copies int `yaml:"copies"`

	// MaxBytes bounds all copies on this node: a number with the unit MiB or GiB. When it is
	// reached nothing more is taken in, and the log says so; nothing is removed. Default 1GiB.
	MaxBytes Size `yaml:"max_bytes"`
}

// Size is a number of bytes.
type Size uint64

const mostSize = 1 << 50

var size = regexp.MustCompile(`^([1-9][0-9]{0,11}) ?(MiB|GiB)$`)

// UnmarshalText reads a number with its unit.
func (s *Size) UnmarshalText(b []byte) error {
	m := size.FindSubmatch(b)
	if m == nil {
		return errSize
	}
	n, _ := new(big.Int).SetString(string(m[1]), 10) // digits only
	n.Mul(n, big.NewInt(map[string]int64{"MiB": 1 << 20, "GiB": 1 << 30}[string(m[2])]))
	if n.Cmp(big.NewInt(mostSize)) > 0 {
		return errSize
	}
	*s = Size(n.Uint64())
	return nil
}

var errSize = fmt.Errorf("want 1MiB to %dGiB, like 10GiB", mostSize>>30)

const mostCopies = 8

func (c *Config) checkTrail(d *decoder) {
	t := &c.Trail.Custody
	t.Every = orDefault(t.Every, Interval(5*time.Minute))
	t.Copies = orDefault(t.Copies, 3)
	t.MaxBytes = orDefault(t.MaxBytes, 1<<30)
	if t.Copies < 1 || t.Copies > mostCopies {
		d.miss("trail.custody.copies", fmt.Sprint(t.Copies), fmt.Sprintf("1 to %d; every: 0 keeps none", mostCopies))
	}
	seen := map[policy.Kind]bool{}
	for i, p := range c.Trail.Payloads {
		field := fmt.Sprintf("trail.payloads[%d]", i)
		if len(p.Kinds) == 0 {
			d.miss(field, "", fmt.Sprintf("kinds: a list of %v", policy.Kinds))
		}
		if p.For == 0 {
			d.miss(field, "", "for: a number of days, like 30d")
		}
		for j, kind := range p.Kinds {
			at := fmt.Sprintf("%s.kinds[%d]", field, j)
			switch {
			case !slices.Contains(policy.Kinds, kind):
				d.miss(at, string(kind), fmt.Sprintf("one of %v", policy.Kinds))
			case seen[kind]:
				d.miss(at, string(kind), "each kind once")
			}
			seen[kind] = true
		}
	}
	if o := c.Trail.OTLP; o != nil && o.Endpoint == "" {
		d.required("trail.otlp.endpoint", "https://host:port/v1/logs")
	}
}
