package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/audit/casefile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
)

func quarantineVerifyCommand(o *options) *cobra.Command {
	var trust string
	c := &cobra.Command{
		Use:   "verify FILE.zip --trust trust.json",
		Short: "Check offline, anywhere, that somebody was shut out with reason",
		Long: `Verify reads the case file of a quarantine and says whether it shows somebody's guilt, and
why: which rule was broken, what was signed, and by whose key. It reads that file and the
trust file and nothing else: no node need run, and none of the fleet need be known here.

The trust file has the global keys, and comes from somebody you believe, not with the case.
bailiwick trail export --case ID --out FILE.zip makes case files, bailiwick trail verify
--save-trust trust files.

Exit code 1 means that guilt is not shown: the file is not whole, its keys are not vouched
for, a proof does not hold, there is none, or what it shows convicts nobody.`,
		Example: `  bailiwick trail export --case 157b041928bf --out case.zip
  bailiwick quarantine verify case.zip --trust trust.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return quarantineVerify(o, args[0], trust) },
	}
	c.Flags().StringVar(&trust, "trust", "", "trust file: the global keys (required)")
	return c
}

// judged is the answer for programs.
type judged struct {
	Guilty bool             `json:"guilty"`
	Why    string           `json:"why"`
	Proofs []casefile.Proof `json:"proofs"`
	MadeAt time.Time        `json:"made_at"`
	Asked  string           `json:"asked"`
	Trails []string         `json:"trails"` // in which it is recorded
}

func quarantineVerify(o *options, path, trust string) error {
	if trust == "" {
		return &usageError{errors.New("a case file is verified with what you trust: --trust FILE (bailiwick trail verify --save-trust makes one)")}
	}
	believes, err := readTrust(trust)
	if err != nil {
		return err
	}
	b, err := bounded.ReadFile(path, casefile.MaxFile)
	if err != nil {
		return err
	}
	r, err := casefile.Verify(b, believes)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	v := r.Judgement()
	j := judged{Guilty: v.Good, Why: v.Why, Proofs: r.Proofs, MadeAt: r.MadeAt, Asked: r.Question.String(), Trails: []string{}}
	if !v.Good {
		j.Proofs = []casefile.Proof{}
	}
	for _, t := range r.Trails {
		j.Trails = append(j.Trails, t.Origin)
	}
	item, err := json.Marshal(j)
	if err != nil {
		return err
	}
	doc := output.Document{AsOf: time.Now().UTC(), Items: []json.RawMessage{item}}
	if err := output.Write(o.out, o.format, doc, func(w io.Writer) { judgementText(w, path, r, v) }); err != nil {
		return err
	}
	if !v.Good {
		return fmt.Errorf("%s: %w", path, v.Err)
	}
	return nil
}

func judgementText(w io.Writer, path string, r casefile.Report, v casefile.Verdict) {
	if !v.Good {
		fmt.Fprintf(w, "case file %s: guilt is NOT SHOWN\n", path)
		return
	}
	fmt.Fprintf(w, "case file %s: %s\n", path, v.Why)
	for _, p := range r.Proofs {
		fmt.Fprintf(w, "proof %.12s: %s, %s in epoch %d\n", p.Digest, p.Accused, p.Class, p.Epoch)
		fmt.Fprintf(w, "  broken     %s\n", p.Rule)
		for _, s := range p.Shown {
			fmt.Fprintf(w, "  signed     %s\n", s)
		}
		fmt.Fprintf(w, "  by         %s\n", p.SignedBy)
		fmt.Fprintf(w, "  therefore  %s\n", p.Counts)
	}
	rows := [][]string{}
	for _, f := range r.Facts {
		if f.Kind == "genesis" {
			continue
		}
		rows = append(rows, []string{f.At.UTC().Format(time.RFC3339Nano), f.Origin, fmt.Sprint(f.Index), f.Text})
	}
	output.Columns(w, "AT TRAIL LEAF WHAT", rows)
}
