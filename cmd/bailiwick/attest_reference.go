package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

// references is policy data of the global level: with any sets in it, a machine has
// to match one of them. An update is announced by adding the set of the next boot
// before it is installed, and the old one is taken out afterwards.
type references struct {
	Attest struct {
		References []reference `json:"references"`
	} `json:"attest"`
}

// reference is one good boot. What it does not say is not asked.
type reference struct {
	Name         string              `json:"name"`
	Maker        string              `json:"maker,omitempty"`
	CommandLines []string            `json:"command_lines,omitempty"`
	Digests      map[string][]string `json:"digests"` // PCR -> event digests in order, hex
}

// learnedPCRs leaves out what differs between machines that boot the same: 1 and 6
// (settings and serial numbers) and 5 (the partition table).
var learnedPCRs = []string{"0", "2", "3", "4", "7", "8", "9", "14"}

const maxReferences = 1 << 20 // bytes of a file

var (
	errNotProven  = errors.New("this node's evidence proves nothing now: see bailiwick attest explain")
	errReferences = errors.New("not a file of reference sets, as bailiwick attest learn writes them")
)

func attestLearnCommand(o *options) *cobra.Command {
	var file, name string
	var pcrs []string
	var add bool
	c := &cobra.Command{
		Use:   "learn NODE",
		Short: "Write what a node booted as a reference set, for policy data",
		Long: `Learn writes the event digests, the kernel command lines and the TPM's maker that a
node proves now as a reference set: data.json of the global policy. Once policy has
any set, a machine has to match one of them. Announce an update with the set of the
new boot beside that of the old one (--add), and take the old one out afterwards.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeNode,
		RunE: func(_ *cobra.Command, args []string) error {
			_, n, err := o.attestation(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				name = shortID(n.SpiffeId)
			}
			set, err := learn(n, name, pcrs)
			if err != nil {
				return err
			}
			return writeReference(o.out, file, set, add)
		},
	}
	c.Flags().StringVar(&file, "out", "-", "file to write; - is standard output")
	c.Flags().StringVar(&name, "name", "", "name of the set (default: the node's)")
	c.Flags().StringSliceVar(&pcrs, "pcr", learnedPCRs, "PCRs to learn")
	c.Flags().BoolVar(&add, "add", false, "keep the other sets of the file")
	return c
}

func learn(n *controlv1.NodeAttestation, name string, pcrs []string) (reference, error) {
	r := reference{Name: name, Maker: n.EkMaker, CommandLines: n.CommandLines, Digests: map[string][]string{}}
	if n.EkSha256 == "" {
		return r, fmt.Errorf("%w %s", errNotProven, shortID(n.SpiffeId))
	}
	for _, pcr := range pcrs {
		if d := n.Digests[pcr]; d != nil {
			r.Digests[pcr] = d.Sha256
		}
	}
	return r, nil
}

func writeReference(w io.Writer, file string, set reference, add bool) error {
	var all references
	if add && file != "-" {
		var err error
		if all, err = readReferences(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	list := slices.DeleteFunc(all.Attest.References, func(r reference) bool { return r.Name == set.Name })
	all.Attest.References = append(list, set)
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if file == "-" {
		_, err := w.Write(b)
		return err
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: %d reference sets; put them into data.json of the global policy, sign it and give it to every node\n", file, len(all.Attest.References))
	return nil
}

func readReferences(file string) (all references, err error) {
	f, err := os.Open(file)
	if err != nil {
		return all, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxReferences+1))
	if err != nil {
		return all, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil || len(b) > maxReferences || len(all.Attest.References) == 0 {
		return references{}, fmt.Errorf("%w: %s: %v", errReferences, file, err)
	}
	return all, nil
}

func attestDiffCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "What differs between two boots: reference sets (FILE or FILE#NAME) or nodes",
		Args:  cobra.ExactArgs(2), ValidArgsFunction: completeNodes,
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := o.boot(args[0])
			if err != nil {
				return err
			}
			b, err := o.boot(args[1])
			if err != nil {
				return err
			}
			changes := diff(a, b)
			doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{}}
			for _, c := range changes {
				item, err := json.Marshal(c)
				if err != nil {
					return err
				}
				doc.Items = append(doc.Items, item)
			}
			return output.Write(o.out, o.format, doc, func(w io.Writer) {
				if len(changes) == 0 {
					fmt.Fprintln(w, "no difference")
				}
				for _, c := range changes {
					fmt.Fprintf(w, "%s %-12s %s\n", map[bool]string{false: "-", true: "+"}[c.Added], c.Where, c.What)
				}
			})
		},
	}
}

// boot is a reference set of a file, the newest unless it is named, or what a node
// proves now.
func (o *options) boot(arg string) (reference, error) {
	file, name, named := strings.Cut(arg, "#")
	isPath := named || strings.ContainsAny(arg, "./") && !strings.HasPrefix(arg, "spiffe://")
	if info, err := os.Stat(file); !isPath && (err != nil || !info.Mode().IsRegular()) { // a node's folder may have its name
		_, n, err := o.attestation(arg)
		if err != nil {
			return reference{}, err
		}
		return learn(n, arg, slices.Collect(maps.Keys(n.Digests)))
	}
	all, err := readReferences(file)
	if err != nil {
		return reference{}, err
	}
	for _, r := range slices.Backward(all.Attest.References) {
		if !named || r.Name == name {
			return r, nil
		}
	}
	return reference{}, fmt.Errorf("%w: %s has no set named %q", errReferences, file, name)
}

// change is one thing that only one of two boots has.
type change struct {
	Where string `json:"where"` // pcr N, command line, maker
	What  string `json:"what"`
	Added bool   `json:"added"` // the second has it
}

// diff tells what b has and a has not, and the other way round. PCRs that only one
// of them speaks of are left out: a reference asks nothing about them.
func diff(a, b reference) (out []change) {
	each := func(where string, a, b []string) {
		gone, came := without(a, b), without(b, a)
		for _, what := range gone {
			out = append(out, change{where, what, false})
		}
		for _, what := range came {
			out = append(out, change{where, what, true})
		}
		if len(gone)+len(came) == 0 && !slices.Equal(a, b) {
			out = append(out, change{where, "the same events in another order", true})
		}
	}
	pcrs := slices.SortedFunc(maps.Keys(a.Digests), func(x, y string) int {
		i, _ := strconv.Atoi(x) // whatever is no number comes first
		j, _ := strconv.Atoi(y)
		return i - j
	})
	for _, pcr := range pcrs {
		if other, ok := b.Digests[pcr]; ok {
			each("pcr "+pcr, a.Digests[pcr], other)
		}
	}
	each("command line", a.CommandLines, b.CommandLines)
	if a.Maker != b.Maker {
		each("maker", []string{orDash(a.Maker)}, []string{orDash(b.Maker)})
	}
	return out
}

// without is a less b, each as often as it occurs.
func without(a, b []string) (out []string) {
	left := slices.Clone(b)
	for _, s := range a {
		if i := slices.Index(left, s); i >= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		out = append(out, s)
	}
	return out
}
