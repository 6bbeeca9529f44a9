package reach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Decider is what a matrix needs of policy.Engine.
type Decider interface {
	Decide(ctx context.Context, in policy.Input) policy.Decision
}

// Policies returns what decides on a node, or nil where that is not known here.
type Policies func(self *policy.Peer) Decider

// MaxQuestions is how many decisions one matrix may take: a few seconds' worth.
const MaxQuestions = 100_000

// ErrTooMany means that a matrix would take more than MaxQuestions decisions. Narrow it to one
// service or one caller.
var ErrTooMany = errors.New("too many callers, services and nodes for one matrix")

// Verdict is what a cell says.
type Verdict string

// The verdicts of cells; see the package doc.
const (
	Yes  Verdict = "yes"
	No   Verdict = "no"
	Some Verdict = "some"
	Half Verdict = "half"
)

// Matrix is who can reach what.
type Matrix struct {
	AsOf     time.Time `json:"as_of"`
	ViewOf   string    `json:"view_of,omitempty"`
	Policies []string  `json:"policies"` // revisions of the generations asked
	Services []string  `json:"services"` // full names: the columns
	Rows     []Row     `json:"rows"`
}

// Row is one caller.
type Row struct {
	Caller string `json:"caller"` // SPIFFE ID
	Region string `json:"region"`
	Nodes  int    `json:"nodes"` // that it runs on; 0: not known, and one is assumed
	Cells  []Cell `json:"cells"` // one for each service
}

// Cell is one caller and one service.
type Cell struct {
	Service string  `json:"service"`
	Verdict Verdict `json:"verdict"`
	Allowed int     `json:"allowed"` // pairs of nodes
	Pairs   int     `json:"pairs"`
	By      []By    `json:"by"` // what decided, the most frequent first
}

// By is a rule that decided pairs of a cell.
type By struct {
	End   string `json:"end"` // "dial" or "accept"; of a pair that both allow: accept
	Allow bool   `json:"allow"`
	Level string `json:"level,omitempty"`
	Rule  string `json:"rule"`
	Title string `json:"title,omitempty"`
	Owner string `json:"owner,omitempty"`
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`
	Pairs int    `json:"pairs"`
}

// Where is the place of the rule, "level/file:line", or "".
func (b By) Where() string {
	if b.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", b.File, b.Line)
}

// Compute asks policy about every pair of nodes of every cell, as of now. Errors wrap ErrRoster or
// ErrTooMany, or are ctx's.
func Compute(ctx context.Context, r Roster, policies Policies, now time.Time) (Matrix, error) {
	if err := r.Check(); err != nil {
		return Matrix{}, err
	}
	callers, owners := 0, 0
	for _, c := range r.Callers {
		callers += max(1, len(c.Nodes))
	}
	for _, s := range r.Services {
		owners += max(1, len(s.Owners))
	}
	if n := 2 * callers * owners; n > MaxQuestions {
		return Matrix{}, fmt.Errorf("%w: %d decisions, at most %d", ErrTooMany, n, MaxQuestions)
	}
	r = r.sorted()
	a := asking{ctx: ctx, policies: policies, now: now, nodes: map[string]policy.Peer{}, revisions: map[string]bool{}}
	for _, n := range r.Nodes {
		a.nodes[n.SPIFFEID] = n
	}
	m := Matrix{AsOf: now.UTC(), ViewOf: r.ViewOf}
	for _, s := range r.Services {
		m.Services = append(m.Services, s.Full())
	}
	for _, c := range r.Callers {
		row := Row{Caller: c.SPIFFEID, Region: c.Region, Nodes: len(c.Nodes)}
		for _, s := range r.Services {
			row.Cells = append(row.Cells, a.cell(c, s))
		}
		if err := ctx.Err(); err != nil { // a decision without time is a denial, not an answer
			return Matrix{}, err
		}
		m.Rows = append(m.Rows, row)
	}
	m.Policies = slices.Sorted(maps.Keys(a.revisions))
	return m, nil
}

// asking is one computation.
type asking struct {
	ctx       context.Context
	policies  Policies
	now       time.Time
	nodes     map[string]policy.Peer
	revisions map[string]bool
}

func (a *asking) cell(c Caller, s Service) Cell {
	cell := Cell{Service: s.Full()}
	decided, open := map[By]int{}, 0
	from, to := c.Nodes, s.Owners
	if len(from) == 0 {
		from = []string{""}
	}
	if len(to) == 0 {
		to = []Owner{{}}
	}
	for _, node := range from {
		for _, owner := range to {
			cell.Pairs++
			by, known := a.pair(c, node, s, owner)
			switch {
			case by.Allow && known:
				cell.Allowed++
			case by.Allow:
				open++
			}
			if by.Rule != "" {
				decided[by]++
			}
		}
	}
	switch {
	case cell.Allowed == cell.Pairs:
		cell.Verdict = Yes
	case cell.Allowed == 0 && open == 0:
		cell.Verdict = No
	case open == cell.Pairs:
		cell.Verdict = Half
	default:
		cell.Verdict = Some
	}
	for by, n := range decided {
		by.Pairs = n
		cell.By = append(cell.By, by)
	}
	slices.SortFunc(cell.By, func(x, y By) int {
		return cmp.Or(cmp.Compare(y.Pairs, x.Pairs), cmp.Compare(x.Rule, y.Rule), cmp.Compare(x.End, y.End), cmp.Compare(x.Level, y.Level))
	})
	return cell
}

// pair is what decides one pair of nodes, and whether both ends are known here.
func (a *asking) pair(c Caller, node string, s Service, o Owner) (by By, known bool) {
	source := a.peer(c.SPIFFEID, c.Region, node)
	destination := a.peer(o.Workload, s.Region, o.Node)
	protocol := cmp.Or(s.Protocol, "tcp")
	ends := []struct {
		action string
		self   policy.Peer
	}{{policy.Dial, a.host(node, c.Region, source)}, {policy.Accept, a.host(o.Node, s.Region, destination)}}
	by, known = By{Allow: true}, true
	for _, end := range ends {
		decider := a.policies(&end.self)
		if decider == nil {
			known = false
			continue
		}
		in := policy.Input{
			V: policy.InputVersion, Kind: policy.Connect, Time: policy.Time{Unix: a.now.Unix(), Trusted: true},
			Self: &end.self, Source: &source, Service: &policy.Service{Name: s.Name, Region: s.Region, Protocol: protocol},
			Action: &policy.Action{Name: end.action}, Destination: &destination,
		}
		d := decider.Decide(a.ctx, in)
		a.revisions[d.Revision] = true
		by = By{End: end.action, Allow: d.Allow, Level: d.Level, Rule: d.Rule, Title: cmp.Or(d.Title, d.Reason), Owner: d.Owner, File: d.File, Line: d.Line}
		if !d.Allow {
			return by, true // whatever the other end says
		}
	}
	return by, known
}

// peer is a workload on a node. What the roster does not say of it is assumed to be good.
func (a *asking) peer(workload, region, node string) policy.Peer {
	p := a.host(node, region, policy.Peer{})
	if id, err := spiffeid.FromString(workload); err == nil {
		p.SPIFFEID, p.TrustDomain, p.Region = workload, id.TrustDomain().Name(), region
		p.Path = strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	}
	return p
}

// host is the node itself, or the node that is assumed where none is known.
func (a *asking) host(node, region string, guest policy.Peer) policy.Peer {
	if n, ok := a.nodes[node]; ok {
		return n
	}
	return policy.Peer{
		Region: region, TrustDomain: guest.TrustDomain, Standing: "ok",
		Attestation: &policy.Attestation{Kind: "tpm", OK: true},
	}
}
