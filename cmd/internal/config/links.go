package config

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

// Link says what the state gossip over some links may cost. Of two ends that say
// different things the thinner mode and the smaller budget hold for both. Tunnels of
// workloads are not meant.
type Link struct {
	// Peers are the nodes it is about. Required, unless zone is set.
	Peers []spiffeid.ID `yaml:"peers"`

	// Zone is about all nodes of a zone. "*" is about all of the region.
	Zone string `yaml:"zone"`

	// Mode is full, tree or headers. full pushes what is at most 1 KiB and announces the
	// rest. tree pushes over as many of such links as it takes for one copy a node, and
	// announces over the others; who misses what was announced fetches it after a second.
	// headers pushes evidence, certificates and what authorities signed, and of all else
	// only signed headers, so that the sync debt stays exact; the rest comes when a local
	// reader asks for a key of its owner, or while the budget lies idle. Default full.
	Mode LinkMode `yaml:"mode"`

	// Budget is how many bytes a second the gossip may send over one such link: a number
	// with the unit B/s, KiB/s or MiB/s, from 256B/s to 1024MiB/s. Evidence and
	// certificates go first, then what authorities signed, then state, then bulk; what
	// does not fit shows as sync debt and comes later. Each packet counts with 60 bytes for
	// what UDP, IP and QUIC add; acknowledgements, handshakes and serf's probes are not
	// counted. The content of policy that the peer asks for shares it, as state; set it at both ends
	// below 4KiB/s: who asks has to know that answers take minutes. Default: no limit.
	Budget Rate `yaml:"budget"`
}

// LinkMode is full, tree or headers.
type LinkMode string

func (m *LinkMode) UnmarshalText(b []byte) error {
	s, err := oneOf(b, "full", "tree", "headers")
	*m = LinkMode(s)
	return err
}

// Rate is a number of bytes a second.
type Rate uint64

const (
	leastRate = 256
	mostRate  = 1 << 30
)

var rate = regexp.MustCompile(`^([0-9]{1,12}) ?(B|KiB|MiB)/s$`)

// UnmarshalText reads a number with its unit.
func (r *Rate) UnmarshalText(b []byte) error {
	m := rate.FindSubmatch(b)
	if m == nil {
		return errRate
	}
	n, _ := new(big.Int).SetString(string(m[1]), 10) // digits only
	n.Mul(n, big.NewInt(map[string]int64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}[string(m[2])]))
	if n.Cmp(big.NewInt(leastRate)) < 0 || n.Cmp(big.NewInt(mostRate)) > 0 {
		return errRate
	}
	*r = Rate(n.Uint64())
	return nil
}

var errRate = fmt.Errorf("want %dB/s to %dMiB/s, like 2KiB/s", leastRate, mostRate>>20)

func (c *Config) checkLinks(d *decoder) {
	for i := range c.Links {
		l, field := &c.Links[i], fmt.Sprintf("links[%d]", i)
		l.Mode = orDefault(l.Mode, "full")
		switch {
		case len(l.Peers) == 0 && l.Zone == "":
			d.required(field+".peers", "the nodes it is about, or zone")
		case len(l.Peers) > 0 && l.Zone != "":
			d.miss(field+".zone", l.Zone, "nothing, since peers is set")
		case l.Zone != "" && l.Zone != "*" && !label.MatchString(l.Zone):
			d.miss(field+".zone", l.Zone, "the name of a zone, or *")
		}
		for j, id := range l.Peers {
			if id.IsZero() {
				continue // no ID, and said to be none
			}
			if _, err := identity.ParseNode(id); err != nil || id.TrustDomain() != c.Node.TrustDomain() {
				d.miss(fmt.Sprintf("%s.peers[%d]", field, j), id.String(), "a node of this region: "+strings.TrimSuffix(c.Node.TrustDomain().IDString(), "/")+"/...")
			}
		}
		if _, said := d.lines[field+".mode"]; !said && l.Budget == 0 {
			d.required(field+".budget", "a budget, or a mode other than full")
		}
	}
}

// LinkTo returns what is said of links with a node: the first that is about it.
func (c Config) LinkTo(peer spiffeid.ID) Link {
	node, err := identity.ParseNode(peer)
	for _, l := range c.Links {
		for _, id := range l.Peers {
			if id == peer {
				return l
			}
		}
		if err == nil && (l.Zone == "*" || l.Zone != "" && l.Zone == node.Zone) {
			return l
		}
	}
	return Link{Mode: "full"}
}
