package main

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
	"github.com/bailiwick-mesh/bailiwick/policy/workbench"
)

func policyPublishCommand(o *options) *cobra.Command {
	p := publication{options: o}
	var verify bool
	var global []string
	var opaKey string
	c := &cobra.Command{
		Use:   "publish {DIR --key KEY | FILE}",
		Short: "Sign a policy as the next version of its level, and bring it to the fleet",
		Long: `Publish compiles the policy in a folder of one level, signs it with the level's key as
the next version, and hands it to a node, which verifies it, puts it in force and
spreads it: the signed record travels as state, and each node fetches the content
from any other that has it. Level, scope, delegations and terms are those of the
version before that this key signed; the first version of a scope needs --delegation.

With --out it writes a signed policy file instead and asks no node: the key may be on
a machine without a network. Versions count on from --after, or from the file at --out.
Given a FILE that is signed, publish hands it to a node as it is.

Each node takes a record or refuses it by itself: bailiwick status tells how many have
it (drift), and bailiwick status --peers which have not. To go back, see rollback.

With --opa a folder is written as an OPA bundle (tar.gz), signed ES256 with --key, for stock
opa. FILE may be such a bundle: --opa-key says who signed it, and what is in it is signed
and published as a folder is. Level, scope, version and schemas of state are in the
bundle's manifest; OPA does not know them.

With --verify it only checks a signed file against --global-key: the chain of keys,
the validity, the digests, and that it compiles.`,
		Example: `  bailiwick policy publish east/policy --key east/policy.key.pem --change "orders may call stock"
  bailiwick policy publish east/policy --key east/policy.key.pem --delegation east/east.delegation --out region.policy
  bailiwick policy publish region.policy
  bailiwick policy publish region.policy --verify --global-key global/global.pem
  bailiwick policy publish east/policy --key east/policy.key.pem --opa east.tar.gz
  bailiwick policy publish east.tar.gz --opa-key author.pem --key east/policy.key.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("%w: there is no %s", workbench.ErrTree, args[0])
			case err != nil:
				return err
			case verify != (len(global) > 0), verify && info.IsDir():
				return &usageError{errors.New("--verify takes a signed FILE and --global-key FILE")}
			case verify:
				return verifyPolicy(o, args[0], global)
			case opaKey != "" && info.IsDir():
				return &usageError{fmt.Errorf("%s is a folder: --opa-key says who signed an OPA bundle, a FILE (tar.gz)", args[0])}
			case opaKey != "":
				return p.opaBundle(cmd.Context(), args[0], opaKey)
			case info.IsDir():
				return p.folder(cmd.Context(), args[0])
			case p.opa != "":
				return &usageError{errors.New("--opa takes a folder of policy")}
			case p.key != "":
				return &usageError{fmt.Errorf("%s is signed already: --key is for a folder", args[0])}
			}
			file, err := bundle.Load(args[0])
			if err != nil && strings.HasSuffix(args[0], ".tar.gz") {
				return &usageError{fmt.Errorf("%s is no signed policy file; if it is an OPA bundle, --opa-key FILE is required: who signed it, and --key", args[0])}
			}
			if err != nil {
				return err
			}
			return p.hand(cmd.Context(), file.Bytes)
		},
	}
	p.flags(c)
	c.Flags().StringArrayVar(&p.delegations, "delegation", nil, "what lets the key sign for its level, outermost first (may be repeated)")
	c.Flags().StringVar(&p.opa, "opa", "", "write an OPA bundle here, and publish nothing")
	c.Flags().StringVar(&opaKey, "opa-key", "", "FILE is an OPA bundle that this public key signed (PEM)")
	c.Flags().BoolVar(&p.force, "force", false, "with --rollout: also with rings that no known node is in")
	c.Flags().BoolVar(&verify, "verify", false, "only verify a signed file")
	c.Flags().StringArrayVar(&global, "global-key", nil, "with --verify: a public key of the global authority (PEM; may be repeated)")
	return c
}

// publication is one run of publish or rollback.
type publication struct {
	*options
	key, out, after, opa      string
	author, change, staleMode string
	rollout                   string
	delegations               []string
	force                     bool
	about                     string // the version, to be told when it is published
	version                   uint64
	valid, maxStaleness       time.Duration
	cmd                       *cobra.Command
	held                      []string // what the node holds and another key signed, in words
}

func (p *publication) flags(c *cobra.Command) {
	p.cmd = c
	f := c.Flags()
	f.StringVar(&p.key, "key", "", "the private key of the policy's level")
	f.StringVar(&p.out, "out", "", "write the signed file here, and ask no node")
	f.StringVar(&p.after, "after", "", "with --out: the policy file to count on from (default: the one at --out)")
	f.StringVar(&p.author, "author", "", "SPIFFE ID of who wrote it (default: as before, else spiffe://SCOPE/operator)")
	f.StringVar(&p.change, "change", "", "why it changed, or a ticket")
	f.Uint64Var(&p.version, "version", 0, "its version (default: the one before, and 1)")
	f.DurationVar(&p.valid, "valid", aYear, "how long it is to be valid")
	f.DurationVar(&p.maxStaleness, "max-staleness", 0, "how long a node may go without news of the authority before --stale-mode applies; 0s: for ever (default: as before)")
	f.StringVar(&p.staleMode, "stale-mode", "", "continue, freeze or deny_new (default: as before, else continue)")
	f.StringVar(&p.rollout, "rollout", "", "put it in force ring by ring, by the plan in this file (go doc ./policy/rollout)")
	complete(c, "stale-mode", bundle.StaleContinue, bundle.StaleFreeze, bundle.StaleDenyNew)
}

// folder signs the policy in a folder.
func (p *publication) folder(ctx context.Context, dir string) error {
	if err := oneLevel(dir); err != nil {
		return err
	}
	if p.opa != "" {
		return p.writeOPA(dir)
	}
	key, next, before, err := p.next(ctx)
	if err != nil {
		return err
	}
	if err := p.keyFor(dir, key, next, len(before)+len(next.Delegations) > 0); err != nil {
		return err
	}
	if next.Content, err = compiled(dir, next.Level); err != nil {
		return err
	}
	p.warn(next, before)
	p.warnOfRegion(dir, next)
	return p.sign(ctx, key, next)
}

// next is what comes after the newest version that the key signed, of a file or of the node's,
// and what is signed of that scope, newest first.
func (p *publication) next(ctx context.Context) (*ecdsa.PrivateKey, provision.Policy, []*controlv1.SignedPolicy, error) {
	none := provision.Policy{Level: policy.Global, Scope: bundle.ScopeMesh, Version: 1}
	if p.key == "" {
		return nil, none, nil, &usageError{errors.New("--key FILE is required: the private key of the policy's level")}
	}
	modes := []string{bundle.StaleContinue, bundle.StaleFreeze, bundle.StaleDenyNew}
	switch {
	case p.staleMode != "" && !slices.Contains(modes, p.staleMode):
		return nil, none, nil, &usageError{fmt.Errorf("--stale-mode %s: want one of %s", p.staleMode, strings.Join(modes, ", "))}
	case p.maxStaleness < 0 || p.maxStaleness%time.Second != 0:
		return nil, none, nil, &usageError{fmt.Errorf("--max-staleness %s: want whole seconds, such as 72h, or 0s for ever", p.maxStaleness)}
	case p.valid < time.Second:
		return nil, none, nil, &usageError{fmt.Errorf("--valid %s: want a second or more, such as 8760h", p.valid)}
	}
	key, err := keyfile.OpenExisting(p.key)
	if err != nil {
		return nil, none, nil, err
	}
	delegations, err := readAll(p.delegations)
	if err != nil {
		return nil, none, nil, err
	}
	if len(delegations) > 0 {
		if err := none.Under(&key.PublicKey, delegations); err != nil {
			return nil, none, nil, err
		}
	}
	before, err := p.before(ctx, key, none)
	if err != nil {
		return nil, none, nil, err
	}
	next := none
	if len(before) > 0 {
		signed, _, err := bundle.Split(before[0].File)
		if err != nil {
			return nil, none, nil, err
		}
		if next, err = provision.Following(signed); err != nil {
			return nil, none, nil, err
		}
		if len(delegations) > 0 {
			if err := next.Under(&key.PublicKey, delegations); err != nil {
				return nil, none, nil, err
			}
		}
	}
	if p.version != 0 {
		next.Version = p.version
	}
	if p.author != "" || next.Author == "" {
		if next.Author = p.author; p.author == "" {
			next.Author = "spiffe://" + next.Scope + "/operator"
		}
	}
	if p.staleMode != "" {
		next.StaleMode = p.staleMode
	}
	if p.cmd.Flags().Changed("max-staleness") {
		next.MaxStaleness = p.maxStaleness
	}
	next.Change = p.change
	if p.rollout != "" {
		b, err := os.ReadFile(p.rollout)
		if err != nil {
			return nil, none, nil, fmt.Errorf("%w: %w", rollout.ErrPlan, err)
		}
		if next.Rollout, err = rollout.Parse(b); err != nil {
			return nil, none, nil, jsonfile.In(p.rollout, err)
		}
	}
	return key, next, before, nil
}

// before returns what is signed of the scope, newest first: one file, of which nothing else is
// said, or what the node holds that the key signed.
func (p *publication) before(ctx context.Context, key *ecdsa.PrivateKey, of provision.Policy) ([]*controlv1.SignedPolicy, error) {
	if p.out != "" {
		path := p.after
		if path == "" {
			path = p.out
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && p.after == "" {
			return nil, nil
		}
		return []*controlv1.SignedPolicy{{File: b}}, err
	}
	t, err := p.one()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := t.ListPolicies(ctx, &controlv1.ListPoliciesRequest{Files: true})
	if err != nil {
		return nil, t.reached(err)
	}
	var out []*controlv1.SignedPolicy
	scope := ""
	if len(of.Delegations) > 0 {
		scope = of.Scope
	}
	for _, m := range resp.Items {
		if len(m.File) == 0 || m.Mode != bundle.Enforce || scope != "" && m.Scope != scope {
			continue
		}
		signed, _, err := bundle.Split(m.File)
		if err != nil {
			return nil, err
		}
		if scope == "" && !bundle.SignedBy(signed, &key.PublicKey) {
			if words := m.Level + " policy of " + m.Scope; !slices.Contains(p.held, words) {
				p.held = append(p.held, words)
			}
			continue
		}
		scope = m.Scope
		out = append(out, m)
	}
	return out, nil
}

// sign signs what is complete, and writes it or hands it to the node.
func (p *publication) sign(ctx context.Context, key *ecdsa.PrivateKey, next provision.Policy) error {
	if next.Rollout != nil && p.out == "" {
		if err := p.rings(ctx, next); err != nil {
			return err
		}
	}
	file, err := next.Sign(key, provision.ValidFor(p.valid))
	if err != nil {
		return err
	}
	if p.out == "" {
		return p.hand(ctx, file)
	}
	if err := provision.WriteFile(p.out, file, fileMode); err != nil {
		return err
	}
	fingerprint := provision.KeyFingerprint(&key.PublicKey)
	return p.tell(map[string]any{"file": p.out, "level": next.Level, "scope": next.Scope, "version": next.Version, "key": fingerprint, "about": p.about},
		p.lines(fmt.Sprintf("%s: %s policy of %s, version %d, signed with key %s", p.out, next.Level, next.Scope, next.Version, fingerprint))...)
}

// lines is what is told of a publication: how it went, and what it is about.
func (p *publication) lines(text string) []string {
	if p.about == "" {
		return []string{text}
	}
	return []string{text, p.about}
}

// hand gives a signed file to the node.
func (p *publication) hand(ctx context.Context, file []byte) error {
	t, err := p.one()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // it is compiled before the node answers
	defer cancel()
	resp, err := t.PublishPolicy(ctx, &controlv1.PublishPolicyRequest{File: file})
	if err != nil {
		return t.reached(err)
	}
	m := resp.Policy
	text := fmt.Sprintf("%s policy of %s, version %d: %s on %s, and on its way to the others", m.Level, m.Scope, m.Version, m.State, shortID(resp.View.ViewOf))
	if !resp.Changed {
		text = fmt.Sprintf("%s policy of %s, version %d: %s knows it already", m.Level, m.Scope, m.Version, shortID(resp.View.ViewOf))
	}
	return p.tell(map[string]any{"level": m.Level, "scope": m.Scope, "version": m.Version, "state": m.State, "changed": resp.Changed, "about": p.about}, p.lines(text)...)
}

// verifyPolicy checks a signed file as a node would.
func verifyPolicy(o *options, path string, keys []string) error {
	global, err := config.PublicKeys("--global-key", keys...)
	if err != nil {
		return err
	}
	file, err := bundle.Load(path)
	if err != nil {
		return err
	}
	v, err := bundle.Verify(file.Signed, file.Content, global, time.Now())
	if err == nil {
		err = policy.Check(v.Level())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r := &v.Record
	return o.tell(map[string]any{"file": path, "level": r.Level, "scope": r.Scope, "version": r.Version, "mode": r.Mode, "author": r.Author, "change": r.Change,
		"not_after": v.NotAfter, "digest": fmt.Sprintf("%x", r.Digest), "record": fmt.Sprintf("%x", v.Name), "stale_mode": r.StaleMode, "max_staleness_seconds": r.MaxStaleness},
		fmt.Sprintf("%s: verified: %s policy of %s, version %d, to %s, by %s, until %s", path, r.Level, r.Scope, r.Version, r.Mode, r.Author, v.NotAfter.Format(time.RFC3339)),
		fmt.Sprintf("content %x, %d bytes; record %x", r.Digest, r.Size, v.Name))
}

// readAll reads the files of delegations, in their order.
func readAll(paths []string) (out [][]byte, err error) {
	for _, path := range paths {
		b, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", bundle.ErrDelegation, err)
		}
		out = append(out, b)
	}
	return out, nil
}
