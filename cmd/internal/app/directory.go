package app

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// neighbour is one node of this node's region, by its own signed record.
type neighbour struct {
	id     spiffeid.ID
	name   string
	addr   netip.AddrPort
	zone   string
	record nodeRecord
}

// offer is one node that runs a service, and the workload that answers there.
type offer struct {
	node     spiffeid.ID
	addr     netip.AddrPort
	workload spiffeid.ID // zero where only the service name's IDs are known
	healthy  bool
}

// directory is what this node knows of others, gathered from signed state only:
// node and service records of its own region, summaries and authority objects
// of every region. It is rebuilt from the replica at each start.
type directory struct {
	self  spiffeid.ID
	trust *trust.Set
	log   *slog.Logger

	summaries *summary.Tracker

	mu       sync.RWMutex // held for map work only
	nodes    map[spiffeid.ID]neighbour
	names    map[string]spiffeid.ID                   // of nodes
	services map[string]map[spiffeid.ID]serviceRecord // name -> node
	policies map[spiffeid.ID]generationRecord         // in force, by node
	books    map[spiffeid.TrustDomain]*authority.Book
	gateways map[netip.AddrPort]spiffeid.TrustDomain // of other regions, as met
}

func newDirectory(self spiffeid.ID, set *trust.Set, summaries *summary.Tracker, log *slog.Logger) *directory {
	return &directory{
		self: self, trust: set, summaries: summaries, log: log,
		nodes:    map[spiffeid.ID]neighbour{},
		names:    map[string]spiffeid.ID{},
		services: map[string]map[spiffeid.ID]serviceRecord{},
		policies: map[spiffeid.ID]generationRecord{},
		books:    map[spiffeid.TrustDomain]*authority.Book{},
		gateways: map[netip.AddrPort]spiffeid.TrustDomain{},
	}
}

// follow applies the replica's state, then each change, until ctx ends. changed
// is called after each change that others may want to act on.
func (d *directory) follow(ctx context.Context, r *replica.Replica, changed func(replica.Change)) error {
	for ctx.Err() == nil {
		for c, err := range r.Watch(ctx, "/", 0) {
			if err != nil {
				break // too far behind: from the start
			}
			r.Guard(c, func() {
				d.apply(c)
				changed(c)
			})
		}
	}
	return nil
}

func (d *directory) apply(c replica.Change) {
	switch c.Kind {
	case feed.KindNode:
		rec, err := parseNodeRecord(c.Name, c.Value)
		node, idErr := identity.ParseNode(c.Owner)
		d.mu.Lock()
		defer d.mu.Unlock()
		_, known := d.nodes[c.Owner]
		if c.Deleted || err != nil || idErr != nil {
			delete(d.nodes, c.Owner)
			d.rename(node.Name)
			return
		}
		addr, _ := netip.ParseAddrPort(rec.Address) // parseNodeRecord has looked at it
		d.nodes[c.Owner] = neighbour{id: c.Owner, name: node.Name, addr: addr, zone: node.Zone, record: rec}
		if !known {
			d.rename(node.Name)
		}
	case feed.KindService:
		rec, _, err := parseServiceRecord(c.Value)
		d.mu.Lock()
		defer d.mu.Unlock()
		if c.Deleted || err != nil {
			delete(d.services[c.Name], c.Owner)
			return
		}
		if d.services[c.Name] == nil {
			d.services[c.Name] = map[spiffeid.ID]serviceRecord{}
		}
		d.services[c.Name][c.Owner] = rec
	case feed.KindGeneration:
		g, err := parseGeneration(c.Name, c.Value)
		d.mu.Lock()
		defer d.mu.Unlock()
		if delete(d.policies, c.Owner); !c.Deleted && err == nil {
			d.policies[c.Owner] = g
		}
	case feed.KindAuthority:
		if !c.Deleted {
			d.object(c.Value)
		}
	case feed.KindSummary:
		if !c.Deleted {
			if _, _, err := d.summaries.Add(time.Now(), c.Value); err != nil && !errors.Is(err, summary.ErrOld) {
				d.log.Debug("carried summary", "owner", c.Owner, "err", err)
			}
		}
	}
}

// object takes in a statement that some region's authority signed, whoever
// carried it. It returns the object and whether it is news.
func (d *directory) object(raw []byte) (authority.Signed, bool) {
	for _, r := range d.trust.Regions() {
		s, changed, err := d.book(r.TrustDomain).Add(raw)
		switch {
		case err == nil:
			return s, changed
		case errors.Is(err, authority.ErrSigner), errors.Is(err, authority.ErrForeign):
			continue // of another region
		case errors.Is(err, quarantine.ErrApprovals): // the authority's key may be in other hands
			d.log.Warn("a release is refused", "region", r.Region, "err", err)
		default:
			d.log.Debug("authority object", "region", r.Region, "err", err)
		}
	}
	return authority.Signed{}, false
}

// book is what the authority of a region has said so far.
func (d *directory) book(td spiffeid.TrustDomain) *authority.Book {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.books[td] == nil {
		d.books[td] = authority.NewBook(td, d.authorityKeys(td))
	}
	return d.books[td]
}

// authorityKeys are the keys that may sign for a region, as its trust record
// says at the time of asking.
func (d *directory) authorityKeys(td spiffeid.TrustDomain) authority.Keys {
	return func(l authority.Level) authority.Signers {
		r, ok := d.trust.Record(td)
		if !ok || l != authority.Regional || !r.ValidAt(time.Now()) {
			return authority.Signers{}
		}
		return authority.Signers{Keys: []*ecdsa.PublicKey{r.AuthorityKey}, Approvers: authority.Approvers(r.Approvers)}
	}
}

// approvers are whose approval releases of this node's region need at the time. Where its trust
// record is not known, nobody's is enough.
func (d *directory) approvers() authority.Approvers {
	r, ok := d.trust.Record(d.self.TrustDomain())
	if !ok {
		return authority.Approvers{Threshold: 1}
	}
	return authority.Approvers(r.Approvers)
}

// neighbours returns the region's roster, without this node.
func (d *directory) neighbours() []neighbour {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]neighbour, 0, len(d.nodes))
	for id, n := range d.nodes {
		if id != d.self {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b neighbour) int { return strings.Compare(a.id.String(), b.id.String()) })
	return out
}

// size is how many others the region's roster names.
func (d *directory) size() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n := len(d.nodes)
	if _, named := d.nodes[d.self]; named {
		n--
	}
	return n
}

// rename finds out anew whose name this is: of several, in different zones, that of
// the node with the first ID.
func (d *directory) rename(name string) {
	delete(d.names, name)
	for id, n := range d.nodes {
		if first, taken := d.names[name]; n.name == name && (!taken || id.String() < first.String()) {
			d.names[name] = id
		}
	}
}

// named returns the node of a name.
func (d *directory) named(name string) (spiffeid.ID, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	id, ok := d.names[name]
	return id, ok
}

func (d *directory) node(id spiffeid.ID) (neighbour, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n, ok := d.nodes[id]
	return n, ok
}

// at returns the node of the region whose record gives this address.
func (d *directory) at(addr netip.AddrPort) spiffeid.ID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for id, n := range d.nodes {
		if n.addr == addr {
			return id
		}
	}
	return spiffeid.ID{}
}

// region returns the label of a trust domain, or "" if it is not known here.
func (d *directory) region(td spiffeid.TrustDomain) string {
	r, ok := d.trust.Record(td)
	if !ok {
		return ""
	}
	return r.Region
}

// serviceIDs are the SPIFFE IDs that a region's authority lets answer to a name.
func (d *directory) serviceIDs(name, region string) []spiffeid.ID {
	r, ok := d.trust.ByLabel(region)
	if !ok {
		return nil
	}
	return d.book(r.TrustDomain).Service(name).IDs
}

// offers are the nodes that say they run a service: of the own region by their
// records, of others by their gateways' summaries.
func (d *directory) offers(name, region string) (out []offer) {
	r, ok := d.trust.ByLabel(region)
	if !ok {
		return nil
	}
	if r.TrustDomain != d.self.TrustDomain() {
		e, ok := d.summaries.Region(r.TrustDomain)
		if !ok {
			return nil
		}
		for _, s := range e.Services {
			if s.Name != name {
				continue
			}
			for _, o := range s.Owners {
				out = append(out, offer{node: o.Node, addr: o.Addr, healthy: s.Healthy > 0})
			}
		}
		return out
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for id, rec := range d.services[name] {
		n, ok := d.nodes[id]
		workload, err := spiffeid.FromString(rec.Workload)
		if ok && err == nil {
			out = append(out, offer{node: id, addr: n.addr, workload: workload, healthy: rec.Healthy})
		}
	}
	slices.SortFunc(out, func(a, b offer) int { return strings.Compare(a.node.String(), b.node.String()) })
	return out
}

// serviceNames lists the services of the own region that some node offers.
func (d *directory) serviceNames() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := slices.Collect(maps.Keys(d.services))
	slices.Sort(out)
	return slices.DeleteFunc(out, func(name string) bool { return len(d.services[name]) == 0 })
}

// met notes where a gateway of another region answered.
func (d *directory) met(addr netip.AddrPort, td spiffeid.TrustDomain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gateways[addr] = td
}

// foreign returns every address at which a node of another region is known.
func (d *directory) foreign() map[netip.AddrPort]spiffeid.TrustDomain {
	d.mu.RLock()
	out := maps.Clone(d.gateways)
	d.mu.RUnlock()
	for _, e := range d.summaries.Entries() {
		for _, s := range e.Services {
			for _, o := range s.Owners {
				if td := o.Node.TrustDomain(); td != d.self.TrustDomain() {
					out[o.Addr] = td
				}
			}
		}
	}
	return out
}

// knows reports whether a trust domain has a record here.
func (d *directory) knows(td spiffeid.TrustDomain) bool {
	_, ok := d.trust.Record(td)
	return ok
}
