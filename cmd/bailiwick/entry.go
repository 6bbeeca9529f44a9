package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/app"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/issuing"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/output"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

func entryCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "entry",
		Short: "Registration entries of an issuer: which machine and program is who",
		Long: `An entry gives a SPIFFE ID to a machine, or to programs on one. Ask the node with
the issuer role. Entries have three owners, and the ID says which:

  file-...   the files of issuer.entries: change them there (SIGHUP reads them again)
  apply-...  bailiwick entry apply
  any other  the stock spire-server command at issuer.admin_socket

An applied entry that a file of the configuration contradicts or repeats is kept, and
out of force as long as the file says so. The format is that of
deploy/config/entries.yaml.`,
	}
	c.AddCommand(entryApplyCommand(o, false), entryApplyCommand(o, true), entryListCommand(o), entryDeleteCommand(o))
	return c
}

func entryApplyCommand(o *options, dryRun bool) *cobra.Command {
	var files []string
	var prune bool
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the applied entries say what a file says: all of it, or nothing",
		Long: `Apply adds what is new, and replaces an entry that stands in the way of a new one:
of the same ID, parent and selectors, of the same node, of the same machine. Applying
a file again changes nothing. What is wrong is listed with its line, and then nothing
is changed. Several files (-f, repeated) are applied as one.

A join token that an entry names is good for a day from then.`,
		Example: `  bailiwick entry apply -f entries.yaml
  bailiwick entry apply -f nodes.yaml -f workloads.yaml --prune`,
		Args: cobra.NoArgs,
	}
	if dryRun {
		c.Use, c.Short = "diff -f FILE", "Tell what apply would change; exit code 1 if anything"
		c.Long, c.Example = "", "  bailiwick entry diff -f entries.yaml --prune"
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(files) == 0 {
			return &usageError{errors.New("-f FILE is required")}
		}
		return applyEntries(cmd.Context(), o, files, &controlv1.ApplyEntriesRequest{Prune: prune, DryRun: dryRun})
	}
	c.Flags().StringArrayVarP(&files, "file", "f", nil, "file of entries (required; may be repeated)")
	c.Flags().BoolVar(&prune, "prune", false, "the files are the whole of what is applied: take other applied entries away")
	return c
}

func applyEntries(ctx context.Context, o *options, files []string, req *controlv1.ApplyEntriesRequest) error {
	t, err := o.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	status, err := t.Status(ctx, &controlv1.StatusRequest{})
	if err != nil {
		return t.reached(err)
	}
	node, err := spiffeid.FromString(status.View.ViewOf)
	if err != nil {
		return err
	}
	var where []string // of each entry
	var mistakes []error
	for _, path := range files {
		entries, lines, err := config.EntriesAt(path, node.TrustDomain())
		if err != nil {
			mistakes = append(mistakes, err)
			continue
		}
		for i, e := range entries {
			entry, err := issuing.EntryOf(e, node.TrustDomain())
			if err != nil {
				return fmt.Errorf("%w: %s:%d: %w", issuer.ErrEntry, path, lines[i], err)
			}
			req.Entries = append(req.Entries, app.EntryMessage(entry))
			where = append(where, fmt.Sprintf("%s:%d", path, lines[i]))
		}
	}
	if len(mistakes) > 0 {
		return errors.Join(mistakes...)
	}
	r, err := t.ApplyEntries(ctx, req)
	if err != nil {
		return t.reached(err)
	}
	if len(r.Refusals) > 0 {
		refused := []error{fmt.Errorf("%w: nothing was changed", issuer.ErrEntry)}
		for _, f := range r.Refusals {
			refused = append(refused, fmt.Errorf("%s: %s", where[f.Index], f.Reason))
		}
		return errors.Join(refused...)
	}
	err = writeItems(o, r.View, r.Changes, func(w io.Writer) { changeTable(w, r, req.DryRun) })
	if err == nil && req.DryRun && len(r.Changes) > 0 {
		return &exitCode{explain.Failed}
	}
	return err
}

// changeTable prints changes as diff does: an update is the old line and the new one.
func changeTable(w io.Writer, r *controlv1.ApplyEntriesResponse, dryRun bool) {
	var rows [][]string
	line := func(sign string, e *controlv1.Entry) {
		rows = append(rows, append([]string{sign + " " + shortEntry(e.Id)}, entryRow(e)...))
	}
	for _, c := range r.Changes {
		switch {
		case c.Action == "delete":
			line("-", c.Entry)
			continue
		case c.Before != nil:
			line("-", c.Before)
		}
		line("+", c.Entry)
	}
	if len(rows) > 0 {
		output.Columns(w, "ENTRY SPIFFE_ID PARENT SELECTORS MORE", rows)
	}
	done := "changed"
	if dryRun {
		done = "would change"
	}
	fmt.Fprintf(w, "%d %s, %d unchanged\n", len(r.Changes), done, r.Unchanged)
}

func entryListCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "All entries of an issuer, with their owners",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := o.one()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			r, err := t.ListEntries(ctx, &controlv1.ListEntriesRequest{})
			if err != nil {
				return t.reached(err)
			}
			return writeItems(o, r.View, r.Items, func(w io.Writer) {
				var rows [][]string
				for _, e := range r.Items {
					rows = append(rows, append([]string{shortEntry(e.Id), e.From}, entryRow(e)...))
				}
				output.Columns(w, "ENTRY FROM SPIFFE_ID PARENT SELECTORS MORE", rows)
			})
		},
	}
}

func entryDeleteCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "delete ID",
		Short: "Take an entry away that was applied, or made at the admin socket",
		Long: `Delete takes one entry away; a prefix of its ID is enough. Nobody gets an SVID by it
any more from then on. An SVID that was issued is good until it expires. To end issuing
and renewal for a whole machine at once, ban its agent: the PARENT of its entries in
bailiwick entry list (spire-server agent ban, at issuer.admin_socket).`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeEntry,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := o.one()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			r, err := t.DeleteEntry(ctx, &controlv1.DeleteEntryRequest{Id: args[0]})
			if err != nil {
				return t.reached(err)
			}
			return writeItems(o, r.View, []proto.Message{r.Entry}, func(w io.Writer) {
				fmt.Fprintf(w, "entry %s of %s is gone\n", shortEntry(r.Entry.Id), r.Entry.SpiffeId)
			})
		},
	}
}

// completeEntry completes the IDs of entries that may be deleted.
func (o *options) completeEntry(cmd *cobra.Command, args []string, _ string) (out []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if t, err := o.one(); err == nil {
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		if r, err := t.ListEntries(ctx, &controlv1.ListEntriesRequest{}); err == nil {
			for _, e := range r.Items {
				if e.From != issuer.FromFile {
					out = append(out, e.Id+"\t"+e.SpiffeId)
				}
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// shortEntry is enough of an entry's ID to delete it by.
func shortEntry(id string) string {
	if owner, digest, ok := strings.Cut(id, "-"); ok && len(digest) == 32 {
		return owner + "-" + digest[:8]
	}
	return id
}

// entryRow is what an entry says, without its ID and owner.
func entryRow(e *controlv1.Entry) []string {
	var more []string
	add := func(name, value string) {
		if value != "" {
			more = append(more, name+"="+value)
		}
	}
	add("class", e.Class)
	if e.X509TtlSeconds > 0 {
		add("lifetime", seconds(e.X509TtlSeconds).String())
	}
	if e.JwtTtlSeconds > 0 {
		add("jwt_lifetime", seconds(e.JwtTtlSeconds).String())
	}
	add("federates_with", strings.Join(e.FederatesWith, ","))
	add("dns_names", strings.Join(e.DnsNames, ","))
	add("hint", e.Hint)
	if e.Expires != nil {
		add("expires", e.Expires.AsTime().Format(time.RFC3339))
	}
	if e.Id != "" && !e.InForce {
		more = append(more, "out of force: a file of the configuration decides")
	}
	return []string{e.SpiffeId, e.ParentId, orDash(strings.Join(e.Selectors, ",")), orDash(strings.Join(more, " "))}
}
