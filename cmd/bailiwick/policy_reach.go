package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
	"github.com/bailiwick-mesh/bailiwick/policy/reach"
	"github.com/bailiwick-mesh/bailiwick/policy/spelling"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

// reachTimeout is for a matrix of reach.MaxQuestions on a slow machine.
const reachTimeout = time.Minute

// reachQuestion is what policy reach is asked.
type reachQuestion struct {
	trees                   []string
	roster, service, caller string
	html, svg, export       string
}

func policyReachCommand(o *options) *cobra.Command {
	var q reachQuestion
	c := &cobra.Command{
		Use:   "reach [DIR...]",
		Short: "The matrix of who can reach what, with the rule that decides each cell",
		Long: `Reach asks policy about every caller and every service, at both ends, and shows the
matrix: yes, no, some (between some nodes only) and half (one end allows it, and the
other region's policy is not known here), each with the rule that decided. Nothing is
recorded, and no connection is made.

Without DIR a running node answers, by the policy it has in force and by what it knows
of nodes, services and callers: an issuer knows all callers of its region, other nodes
those of their own workloads, services and policies. --export keeps what it knew.

With DIR it works offline: on working trees, one for each region of interest, and on
the roster of --roster, a file that --export wrote or that is written by hand
(go doc ./policy/reach has its fields). Whoever the data of the trees names is a caller
too. Without --roster these are all, and the service is that of --service NAME.REGION.

--html and --svg write a heat map that needs no other file.`,
		Example: `  bailiwick policy reach --service web.east
  bailiwick policy reach --export roster.json --html reach.html
  bailiwick policy reach ./east --roster roster.json --id spiffe://east.dev.example/workload/shop
  bailiwick policy reach ./east ./west --roster roster.json --svg reach.svg`,
		RunE: func(cmd *cobra.Command, args []string) error {
			q.trees = args
			return policyReach(cmd.Context(), o, q)
		},
	}
	f := c.Flags()
	f.StringVar(&q.service, "service", "", "only this service: NAME or NAME.REGION")
	f.StringVar(&q.caller, "id", "", "only this caller: a SPIFFE ID, in the roster or not")
	f.StringVar(&q.roster, "roster", "", "callers, services and nodes, to ask the trees of DIR about")
	f.StringVar(&q.export, "export", "", "write what the node knows of callers, services and nodes to this file")
	f.StringVar(&q.html, "html", "", "write a heat map as a page to this file")
	f.StringVar(&q.svg, "svg", "", "write a heat map as a drawing to this file")
	return c
}

func policyReach(ctx context.Context, o *options, q reachQuestion) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	var m reach.Matrix
	var view *controlv1.View
	var err error
	switch {
	case len(q.trees) == 0 && q.roster != "":
		return &usageError{errors.New("--roster is for working trees: name their DIR")}
	case len(q.trees) > 0 && q.export != "":
		return &usageError{errors.New("--export is for a running node: leave DIR out")}
	case len(q.trees) > 0:
		m, err = reachOffline(ctx, o, q)
	default:
		m, view, err = reachOnline(ctx, o, q)
	}
	if err != nil {
		return err
	}
	for _, drawing := range []struct {
		file string
		draw func(io.Writer, reach.Matrix) error
	}{{q.html, reach.HTML}, {q.svg, reach.SVG}} {
		if drawing.file == "" {
			continue
		}
		if err := writeDrawing(drawing.file, m, drawing.draw); err != nil {
			return err
		}
	}
	return tellReach(o, m, view)
}

func writeDrawing(path string, m reach.Matrix, draw func(io.Writer, reach.Matrix) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	return errors.Join(draw(f, m), f.Close())
}

func reachOnline(ctx context.Context, o *options, q reachQuestion) (m reach.Matrix, view *controlv1.View, err error) {
	t, err := o.one()
	if err != nil {
		return m, nil, err
	}
	r, err := t.Reach(ctx, &controlv1.ReachRequest{Service: q.service, Caller: q.caller})
	if err != nil {
		return m, nil, t.reached(err)
	}
	if err := json.Unmarshal([]byte(r.MatrixJson), &m); err != nil {
		return m, nil, fmt.Errorf("%s: the matrix: %w", t.name, err)
	}
	if q.export != "" {
		if err := provision.WriteFile(q.export, append([]byte(r.RosterJson), '\n'), fileMode); err != nil {
			return m, nil, err
		}
	}
	return m, r.View, nil
}

func reachOffline(ctx context.Context, o *options, q reachQuestion) (m reach.Matrix, err error) {
	engines := map[string]*policy.Engine{} // by region
	domains := map[spiffeid.TrustDomain]string{}
	var roster reach.Roster
	var named []string
	for _, dir := range q.trees {
		tree, err := workbench.Open(dir)
		if err != nil {
			return m, err
		}
		region := tree.Plan.Region
		if engines[region] != nil {
			return m, &usageError{fmt.Errorf("%s: another tree is for region %s too: a matrix has one policy for each region", dir, region)}
		}
		engine := policy.New(policy.Config{})
		var levels []policy.Level
		for _, l := range tree.Levels {
			levels = append(levels, l.Level)
			named = append(named, reach.NamedServices(l.Level)...)
			for _, id := range reach.Named(l.Data) {
				roster.Callers = append(roster.Callers, reach.Caller{SPIFFEID: id.String()})
			}
		}
		if err := engine.Activate(levels...); err != nil {
			return m, mistaken(tree, err)
		}
		engines[region] = engine
		if td, err := spiffeid.TrustDomainFromString(tree.Plan.TrustDomain); err == nil {
			domains[td] = region
		}
	}
	if q.roster != "" {
		callers := roster.Callers
		if roster, err = readRoster(q.roster); err != nil {
			return m, err
		}
		roster = withNamed(roster, callers, domains)
	} else {
		if roster, err = impliedRoster(roster, q.service, domains); err != nil {
			return m, err
		}
		if s := roster.Services[0]; !slices.Contains(named, s.Name) && !slices.Contains(named, s.Full()) {
			fmt.Fprintf(o.err, "note: neither rules nor data of the trees name the service %s%s\n", s.Full(), cmp.Or(spelling.DidYouMean(s.Full(), named), spelling.DidYouMean(s.Name, named)))
		}
	}
	roster, err = roster.Narrow(q.service, q.caller, func(td spiffeid.TrustDomain) string { return cmp.Or(roster.Region(td), domains[td]) })
	if err != nil {
		return m, err
	}
	return reach.Compute(ctx, roster, func(self *policy.Peer) reach.Decider {
		if e := engines[self.Region]; e != nil {
			return e
		}
		return nil
	}, time.Now())
}

func readRoster(path string) (r reach.Roster, err error) {
	f, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, reach.MaxRoster+1))
	if err != nil {
		return r, err
	}
	if r, err = reach.ParseRoster(b); err != nil {
		return r, jsonfile.In(path, err)
	}
	return r, nil
}

// impliedRoster is what the trees themselves name, and the service asked about.
func impliedRoster(named reach.Roster, service string, domains map[spiffeid.TrustDomain]string) (reach.Roster, error) {
	name, region, ok := splitFull(service)
	switch {
	case !ok && service != "":
		return named, &usageError{fmt.Errorf("--service %s: want NAME.REGION, such as web.east, or --roster FILE: a tree does not say which services there are", service)}
	case !ok:
		return named, &usageError{errors.New("--roster FILE is required, or --service NAME.REGION: a tree does not say which services there are")}
	}
	r := reach.Roster{Services: []reach.Service{{Name: name, Region: region}}}
	return withNamed(r, named.Callers, domains), nil
}

// withNamed adds the callers that data of the trees names, each once: what is known of them is the
// region of their trust domain. That is filled in too where a roster written by hand leaves it out.
func withNamed(r reach.Roster, named []reach.Caller, domains map[spiffeid.TrustDomain]string) reach.Roster {
	seen := map[string]bool{}
	for i, c := range r.Callers {
		seen[c.SPIFFEID] = true
		if id, err := spiffeid.FromString(c.SPIFFEID); err == nil && c.Region == "" {
			r.Callers[i].Region = cmp.Or(domains[id.TrustDomain()], r.Region(id.TrustDomain()))
		}
	}
	for _, c := range named {
		id, err := spiffeid.FromString(c.SPIFFEID)
		if err == nil && !seen[c.SPIFFEID] {
			seen[c.SPIFFEID] = true
			r.Callers = append(r.Callers, reach.Caller{SPIFFEID: c.SPIFFEID, Region: cmp.Or(r.Region(id.TrustDomain()), domains[id.TrustDomain()])})
		}
	}
	return r
}

func tellReach(o *options, m reach.Matrix, view *controlv1.View) error {
	doc := output.Document{AsOf: m.AsOf, ViewOf: m.ViewOf, Items: []json.RawMessage{}}
	for _, row := range m.Rows {
		b, err := json.Marshal(row)
		if err != nil {
			return err
		}
		doc.Items = append(doc.Items, b)
	}
	return output.Write(o.out, o.format, doc, func(w io.Writer) {
		if view != nil {
			fmt.Fprintln(w, headline(view))
		}
		reachTable(w, m)
	})
}
