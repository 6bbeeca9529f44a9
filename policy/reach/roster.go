package reach

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
)

// MaxRoster is the largest roster file, in bytes.
const MaxRoster = 32 << 20

// ErrRoster means that a roster file is not one: the message names the field. Export one with
// bailiwick policy reach --export FILE, or write callers and services by hand.
var ErrRoster = errors.New("not a roster of callers and services")

// ErrNoService means that a roster has no service of the name that was asked about. The message has
// the likeliest one, or those that there are.
var ErrNoService = errors.New("there is no such service")

// Roster is who is where, as one node knows it.
type Roster struct {
	AsOf     time.Time     `json:"as_of,omitzero"`
	ViewOf   string        `json:"view_of,omitempty"` // SPIFFE ID of the node whose view it is
	Nodes    []policy.Peer `json:"nodes,omitempty"`   // each with a spiffe_id of its own
	Callers  []Caller      `json:"callers"`
	Services []Service     `json:"services"`
}

// Caller is a workload that may want to reach services.
type Caller struct {
	SPIFFEID string   `json:"spiffe_id"`
	Region   string   `json:"region"`          // short label; a tree of its trust domain stands in where it is empty
	Nodes    []string `json:"nodes,omitempty"` // SPIFFE IDs of those it runs on, all in Roster.Nodes
}

// Service is what callers may want to reach.
type Service struct {
	Name     string  `json:"name"`
	Region   string  `json:"region"`
	Protocol string  `json:"protocol,omitempty"` // empty: tcp
	Owners   []Owner `json:"owners,omitempty"`
}

// Owner is a node that offers a service.
type Owner struct {
	Node     string `json:"node"`               // SPIFFE ID, in Roster.Nodes
	Workload string `json:"workload,omitempty"` // SPIFFE ID that answers there
}

// Full is the name of a service with its region, as rules and people write it.
func (s Service) Full() string { return s.Name + "." + s.Region }

// ParseRoster reads a roster file. Errors wrap ErrRoster.
func ParseRoster(b []byte) (r Roster, err error) {
	if len(b) > MaxRoster {
		return r, fmt.Errorf("%w: %d bytes, at most %d", ErrRoster, len(b), MaxRoster)
	}
	if err := jsonfile.Decode(b, &r); err != nil {
		return Roster{}, fmt.Errorf("%w: %w", ErrRoster, err)
	}
	return r, r.Check()
}

// Check reports every mistake in a roster, with the place of each. It wraps ErrRoster.
func (r Roster) Check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrRoster}, args...)...))
	}
	id := func(where, s string) {
		if _, err := spiffeid.FromString(s); err != nil {
			bad("%s is %q: %v", where, s, err)
		}
	}
	nodes := map[string]bool{}
	for i, n := range r.Nodes {
		id(fmt.Sprintf("nodes[%d].spiffe_id", i), n.SPIFFEID)
		if nodes[n.SPIFFEID] {
			bad("nodes[%d].spiffe_id: %s is there twice", i, n.SPIFFEID)
		}
		nodes[n.SPIFFEID] = true
	}
	known := func(where, s string) {
		if !nodes[s] {
			bad("%s: %q is not in nodes", where, s)
		}
	}
	for i, c := range r.Callers {
		id(fmt.Sprintf("callers[%d].spiffe_id", i), c.SPIFFEID)
		for j, n := range c.Nodes {
			known(fmt.Sprintf("callers[%d].nodes[%d]", i, j), n)
		}
	}
	for i, s := range r.Services {
		if s.Name == "" || s.Region == "" {
			bad("services[%d]: name and region are required", i)
		}
		for j, o := range s.Owners {
			known(fmt.Sprintf("services[%d].owners[%d].node", i, j), o.Node)
			if o.Workload != "" {
				id(fmt.Sprintf("services[%d].owners[%d].workload", i, j), o.Workload)
			}
		}
	}
	return errors.Join(errs...)
}

// Narrow leaves one service, by its name or full name, and one caller, by its SPIFFE ID; empty
// means all. A caller that is not in the roster is added to it, as one whose nodes are not known:
// region is then the label of its trust domain. Errors wrap ErrNoService or ErrRoster.
func (r Roster) Narrow(service, caller string, region func(spiffeid.TrustDomain) string) (Roster, error) {
	if service != "" {
		left := slices.DeleteFunc(slices.Clone(r.Services), func(s Service) bool {
			return s.Name != service && s.Full() != strings.TrimSuffix(service, ".mesh")
		})
		if len(left) == 0 {
			return r, fmt.Errorf("%w: %q%s", ErrNoService, service, r.meant(service))
		}
		r.Services = left
	}
	if caller == "" {
		return r, nil
	}
	id, err := spiffeid.FromString(caller)
	if err != nil {
		return r, fmt.Errorf("%w: caller %q: %w", ErrRoster, caller, err)
	}
	r.Callers = slices.DeleteFunc(slices.Clone(r.Callers), func(c Caller) bool { return c.SPIFFEID != caller })
	if len(r.Callers) == 0 {
		r.Callers = []Caller{{SPIFFEID: caller, Region: region(id.TrustDomain())}}
	}
	return r, nil
}

// meant ends the message about a service that is not there.
func (r Roster) meant(service string) string {
	if len(r.Services) == 0 {
		return ": it has no services"
	}
	var names, full []string
	for _, s := range r.Services {
		names, full = append(names, s.Name), append(full, s.Full())
	}
	known := full
	if !strings.Contains(service, ".") {
		known = names
	}
	if hint := spelling.DidYouMean(strings.TrimSuffix(service, ".mesh"), known); hint != "" {
		return hint
	}
	slices.Sort(full)
	const most = 10
	if len(full) > most {
		return fmt.Sprintf("; there are %s and %d more", strings.Join(full[:most], ", "), len(full)-most)
	}
	return "; there are " + strings.Join(full, ", ")
}

// Region is the label of a trust domain, as far as the roster names one in it; otherwise "".
func (r Roster) Region(td spiffeid.TrustDomain) string {
	for _, n := range r.Nodes {
		if n.TrustDomain == td.Name() {
			return n.Region
		}
	}
	for _, c := range r.Callers {
		if id, err := spiffeid.FromString(c.SPIFFEID); err == nil && id.TrustDomain() == td {
			return c.Region
		}
	}
	return ""
}

// sorted is the roster in the order in which matrices show it.
func (r Roster) sorted() Roster {
	r.Callers, r.Services = slices.Clone(r.Callers), slices.Clone(r.Services)
	slices.SortFunc(r.Callers, func(a, b Caller) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.SPIFFEID, b.SPIFFEID))
	})
	slices.SortFunc(r.Services, func(a, b Service) int { return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Name, b.Name)) })
	return r
}

// nameInRule finds the services that rules name.
var nameInRule = regexp.MustCompile(`\bservice\.name\s*==\s*"([^"]+)"`)

// NamedServices are the services that a level names, by name or full name: in its rules, and as the
// keys of services in its data, as the shipped policy has them. One that is not named may be reached
// all the same, by a rule for any service.
func NamedServices(l policy.Level) (out []string) {
	table, _ := l.Data["services"].(map[string]any)
	out = slices.AppendSeq(out, maps.Keys(table))
	for _, src := range l.Modules {
		for _, m := range nameInRule.FindAllStringSubmatch(src, -1) {
			out = append(out, m[1])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Named are the SPIFFE IDs in the data of a policy, wherever they stand: whoever is named is
// worth a row.
func Named(data any) (out []spiffeid.ID) {
	switch v := data.(type) {
	case string:
		if id, err := spiffeid.FromString(v); err == nil && id.Path() != "" {
			out = append(out, id)
		}
	case []any:
		for _, e := range v {
			out = append(out, Named(e)...)
		}
	case map[string]any:
		for _, e := range v {
			out = append(out, Named(e)...)
		}
	}
	return out
}
