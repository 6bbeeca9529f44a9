package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/fact"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

func trailVerifyCommand(o *options) *cobra.Command {
	var v verifying
	c := &cobra.Command{
		Use:   "verify [DIR|FILE.zip]",
		Short: "Check a trail or a case file offline: integrity and completeness, two verdicts",
		Long: `Verify reads files and nothing else: no node need run, no network is used.

DIR is a node's <state>/trail, and --id or --config says whose it must be; with --node it
is that of a node of the dev fleet. Integrity: these are the leaves that the node's trail
key signed. Completeness: none is missing between them. The segments of recorded decisions
beside the trail must be the ones whose digests are in it. With a configuration, the trail
key is also checked against the issuer's endorsement under the region's trust record.

Three of four peers cosign a head. How much of the trail they have seen is shown, judged by
the rosters beside it or, better, by --rosters: those of another node that you believe.

--copies names folders of copies of this trail at custodians, <state>/custody/NODE/trail: the trail must
contain their heads, and how far each is is shown. With --node those of the dev fleet are taken. A copy is
a trail itself: verify it with --id.

FILE.zip is a case file of trail export. Everything in it is checked, starting from --trust.

--trust names a trust file: the global keys, and the trails that were verified before, with
their heads. A trail must still contain the head that is remembered of it. --save-trust
writes such a file, or adds to it, when the verdicts are good: keep it where nodes cannot
write.

Exit code 1 means that a verdict is not good.`,
		Example: `  bailiwick trail verify --node east-n1 --save-trust trust.json
  bailiwick trail verify /var/lib/bailiwick/trail --config /etc/bailiwick/bailiwick.yaml
  bailiwick trail verify case.zip --trust trust.json --report case.html`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && isFile(args[0]) {
				return v.caseFile(o, args[0])
			}
			if v.page != "" {
				return &usageError{errors.New("--report is for a case file")}
			}
			src, err := trailOf(o, args, v.config, v.id)
			if err != nil {
				return err
			}
			if o.node != "" {
				if err := v.fleetCopies(src.node); err != nil {
					return err
				}
			}
			return v.trail(cmd.Context(), o, src)
		},
	}
	f := c.Flags()
	f.StringVar(&v.config, "config", "", "configuration of the node, for its trust records")
	f.StringVar(&v.id, "id", "", "SPIFFE ID of the node whose trail it must be")
	f.StringVar(&v.trust, "trust", "", "trust file: whom to believe, and what was verified before")
	f.StringVar(&v.rosters, "rosters", "", "folder of rosters from a node that you believe, <state>/trail/rosters: says who witnesses are, and requires a witnessed head")
	f.StringSliceVar(&v.copies, "copies", nil, "folders of copies at custodians, <state>/custody/NODE/trail: the trail must contain their heads")
	f.StringVar(&v.save, "save-trust", "", "write what was believed and verified to a trust file, or add to it")
	f.StringVar(&v.page, "report", "", "of a case file: write the report anew, as this version does")
	return c
}

// verifying is one use of trail verify.
type verifying struct {
	config, id, trust, rosters, save, page string
	copies                                 []string
}

// caseFile verifies a case file.
func (v verifying) caseFile(o *options, path string) error {
	if v.trust == "" {
		return &usageError{errors.New("a case file is verified with what you trust: --trust FILE (bailiwick trail verify --save-trust makes one)")}
	}
	t, err := readTrust(v.trust)
	if err != nil {
		return err
	}
	b, err := bounded.ReadFile(path, casefile.MaxFile)
	if err != nil {
		return err
	}
	r, err := casefile.Verify(b, t)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	doc, err := caseDocument(r)
	if err != nil {
		return err
	}
	if err := output.Write(o.out, o.format, doc, func(w io.Writer) { caseText(w, path, r) }); err != nil {
		return err
	}
	if v.page != "" {
		c, err := casefile.Read(b)
		if err != nil {
			return err
		}
		html, err := casefile.Page(c)
		if err != nil {
			return err
		}
		if err := durable.Replace(v.page, html, 0o600); err != nil {
			return err
		}
	}
	if !r.Good() {
		return &exitCode{explain.Failed}
	}
	return nil
}

func caseText(w io.Writer, path string, r casefile.Report) {
	fmt.Fprintf(w, "case file %s: %s\n", path, r.Question)
	fmt.Fprintf(w, "  integrity     %s\n", r.Integrity)
	fmt.Fprintf(w, "  completeness  %s\n", r.Completeness)
	fmt.Fprintf(w, "  report.html   %s\n", r.Page)
	fmt.Fprintf(w, "  certificates  %s\n", r.Certificates)
	fmt.Fprintf(w, "  dated         %s\n", r.Dated)
	for _, l := range r.Dated.Late[min(1, len(r.Dated.Late)):] {
		fmt.Fprintf(w, "    %s\n", l)
	}
	fmt.Fprintf(w, "  holds         %d leaves, %d decisions, %d policies, %d proofs; made %s by bailiwick %s\n",
		len(r.Facts), r.Decisions, r.Policies, r.Evidence, r.MadeAt.Format(time.RFC3339), r.MadeBy)
	for _, t := range r.Trails {
		fmt.Fprintf(w, "trail %s\n", t.Origin)
		fmt.Fprintf(w, "  head          %d leaves, root %.16s...\n", t.Size, t.Root)
		fmt.Fprintf(w, "  trail key     kept in %s; %s\n", t.Protection, t.Key.Why)
		fmt.Fprintf(w, "  witnesses     %s\n", t.Witnessed)
		for _, c := range t.Witnessed.By {
			fmt.Fprintf(w, "    %s at %s: %s\n", c.Witness, c.At.Format(time.RFC3339), c.Key.Why)
		}
	}
	if !r.Good() {
		return
	}
	rows := [][]string{}
	for _, f := range r.Facts {
		seen := "-"
		if !f.Seen.IsZero() {
			seen = f.Seen.UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{f.At.UTC().Format(time.RFC3339), seen, fact.Node(f.Origin), fmt.Sprint(f.Index), f.Kind, f.Text})
	}
	output.Columns(w, "AT SEEN TRAIL LEAF KIND WHAT", rows)
}

// verified is one epoch's report, with what its endorsement adds.
type verified struct {
	trail.Report
	Endorsed string `json:"endorsed"` // by whom the trail key is endorsed, or why not
	// Witnesses is how much of it peers have cosigned.
	Witnesses witnessing.Verdict `json:"witnesses"`
	// Copies are those at custodians that were given, as far as they have this epoch.
	Copies []copied `json:"copies,omitempty"`
	// Decisions is about the segments beside the trail, of all epochs; in the newest epoch's report.
	Decisions *decision.Report `json:"decisions,omitempty"`
}

func (v verifying) trail(ctx context.Context, o *options, src trailSource) error {
	t, err := readTrust(v.trust)
	if err != nil {
		return err
	}
	epochs, err := trail.Epochs(src.dir)
	if err != nil {
		return err
	}
	if len(epochs) == 0 {
		return fmt.Errorf("%w: %s", trail.ErrNoTrail, src.dir)
	}
	doc := output.Document{AsOf: time.Now().UTC(), ViewOf: src.node.String()}
	var reports []verified
	var heads []casefile.Known
	var rosters [][32]byte // of these heads, by the word of a node that is believed
	good := true
	say := progress(o.err)
	var segments decision.Leaves
	for i, e := range epochs {
		dir := trail.EpochDir(src.dir, e)
		opts, err := remembered(t, src.node, e)
		if err != nil {
			return err
		}
		pace := audit.NewPace(time.Now())
		opts.Later = src.dir
		copies, err := v.copied(e)
		if err != nil {
			return err
		}
		for _, c := range copies {
			opts.Heads = append(opts.Heads, c.raw)
		}
		opts.Leaf, opts.Progress = segments.Add, func(done, total uint64) {
			if s := pace.Say(time.Now(), done, total); s != "" {
				say(fmt.Sprintf("epoch %d: %s", e, s))
			}
		}
		r, err := trail.Verify(ctx, dir, opts)
		say("")
		if err != nil {
			return err
		}
		if r.Good() && v.save != "" {
			s, err := trail.OpenSnapshot(dir)
			if err != nil {
				return err
			}
			if j := witnessing.Judge(r, src.dir, v.rosters); j.Good && !j.OwnWord {
				rosters = append(rosters, r.Head.Roster)
			}
			heads = append(heads, casefile.Known{Origin: r.Origin, Verifier: r.VerifierKey, Head: string(s.Head().Raw)})
		}
		required := v.rosters != "" && i == len(epochs)-1 // the newest epoch has to be seen
		v := verified{Report: r, Copies: copies, Endorsed: app.TrailEndorsement(src.config, dir), Witnesses: witnessing.Judge(r, src.dir, v.rosters)}
		good = good && r.Good() && (v.Witnesses.Good || !required)
		if i == len(epochs)-1 {
			found, err := decision.Verify(filepath.Join(src.dir, "..", decision.DirName), segments)
			if err != nil {
				return err
			}
			v.Decisions, good = &found, good && found.Good()
		}
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		reports, doc.Items = append(reports, v), append(doc.Items, b)
	}
	if err := output.Write(o.out, o.format, doc, func(w io.Writer) { trailText(w, reports) }); err != nil {
		return err
	}
	if !good {
		return &exitCode{explain.Failed}
	}
	if v.save == "" {
		return nil
	}
	return v.remember(src, heads, rosters)
}

// remembered are the options for an epoch: with the key and the head that a trust file
// names, if it does.
func remembered(t casefile.Trust, node spiffeid.ID, epoch uint64) (trail.Options, error) {
	opts := trail.Options{Node: node}
	origin, err := trail.Origin(node, epoch)
	if err != nil {
		return opts, err
	}
	known, ok := t.Known(origin)
	if !ok {
		return opts, nil
	}
	opts.VerifierKey = known.Verifier
	if known.Head != "" {
		c, err := trail.OpenCheckpoint([]byte(known.Head), known.Verifier)
		if err != nil {
			return opts, err
		}
		opts.Known = &c
	}
	return opts, nil
}

// remember adds what was found good to the trust file.
func (v verifying) remember(src trailSource, heads []casefile.Known, rosters [][32]byte) error {
	var t casefile.Trust
	b, err := bounded.ReadFile(v.save, casefile.MaxTrust)
	switch {
	case err == nil:
		if t, err = casefile.ParseTrust(b); err != nil {
			return fmt.Errorf("%s: %w", v.save, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case src.config != "":
		global, threshold, _, err := app.Trusted(src.config)
		if err != nil {
			return err
		}
		if t, err = casefile.NewTrust(global, threshold); err != nil {
			return err
		}
	}
	for _, k := range heads {
		t.Remember(k)
	}
	for _, hash := range rosters {
		t.RememberRoster(hash)
	}
	return saveTrust(v.save, t)
}

func trailText(w io.Writer, reports []verified) {
	for _, r := range reports {
		fmt.Fprintf(w, "trail %s\n", r.Origin)
		fmt.Fprintf(w, "  integrity     %s\n", r.Integrity)
		fmt.Fprintf(w, "  completeness  %s\n", r.Completeness)
		fmt.Fprintf(w, "  checkpoint    %d leaves, root %.16s..., %s to %s\n", r.Size, r.Root, r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339))
		fmt.Fprintf(w, "  trail key     kept in %s; %s\n", r.Protection, r.Endorsed)
		fmt.Fprintf(w, "  witnesses     %s\n", r.Witnesses)
		for _, c := range r.Copies {
			fmt.Fprintf(w, "  copy          %d of %d leaves: %s\n", c.Size, r.Size, c.Dir)
		}
		if r.Pruned > 0 {
			fmt.Fprintf(w, "  removed       %d leaves by age, as the trail says; their hashes are proven, their sequence is not\n", r.Pruned)
		}
		if r.Lost > 0 {
			fmt.Fprintf(w, "  lost          %d events, admitted by gap leaves\n", r.Lost)
		}
		if r.Decisions != nil {
			segmentsText(w, *r.Decisions)
		}
	}
}

func segmentsText(w io.Writer, r decision.Report) {
	switch {
	case !r.Good():
		fmt.Fprintf(w, "  decisions     NOT WHAT THE TRAIL SAYS: %s: %s\n", r.BadFile, r.Finding)
	case r.Absent > 0:
		fmt.Fprintf(w, "  decisions     NOT CHECKED: segments not here, %d named by leaves\n", r.Absent)
	case r.Segments == 0:
		fmt.Fprintln(w, "  decisions     no segment yet")
	default:
		fmt.Fprintf(w, "  decisions     %d in %d unbroken segments from number %d, %s to %s", r.Events, r.Segments, r.First, r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339))
		if r.Waiting > 0 {
			fmt.Fprintf(w, "; the newest %d not yet under a signed head", r.Waiting)
		}
		fmt.Fprintln(w)
	}
}
