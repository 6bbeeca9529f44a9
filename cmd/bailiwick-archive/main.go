// Command bailiwick-archive keeps trails in a bucket of S3-compatible storage with object lock, and fetches them
// from there. It is a program and a module of its own: a node neither has the credentials of the storage nor
// carries its libraries. See package archive for what is in the bucket and what always holds.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/cmd/bailiwick-archive/archive"
)

var version = "dev" // set by the linker

// errFindings is what is wrong with trails, of which everything was said.
var errFindings = errors.New("")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errFindings) {
			fmt.Fprintln(os.Stderr, "bailiwick-archive:", err)
		}
		os.Exit(1)
	}
}

// storage says where the bucket is. Credentials are the SDK's to find; they are in no field here.
type storage struct{ endpoint, region, bucket, prefix string }

func (s storage) open(ctx context.Context) (*archive.Bucket, error) {
	if s.bucket == "" {
		return nil, errors.New("--bucket is missing")
	}
	cfg, err := config.LoadDefaultConfig(ctx, func(o *config.LoadOptions) error { o.Region = s.region; return nil })
	if err != nil {
		return nil, err
	}
	prefix := strings.Trim(s.prefix, "/")
	if prefix != "" {
		prefix += "/"
	}
	return archive.OpenBucket(ctx, cfg, s.endpoint, s.bucket, prefix)
}

func command() *cobra.Command {
	var s storage
	c := &cobra.Command{
		Use:   "bailiwick-archive",
		Short: "Keep trails in S3-compatible storage with object lock",
		Long: `Trails of a node, and the copies it keeps of others', go into a bucket whose object lock lets
nobody change or remove them before their time.

Credentials are found as every program with Amazon's SDK finds them: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_PROFILE and its files, or the machine's role. AWS_CA_BUNDLE names the
roots of a server with a certificate of your own.`,
		Version: version, SilenceUsage: true, SilenceErrors: true,
	}
	f := c.PersistentFlags()
	f.StringVar(&s.bucket, "bucket", "", "bucket, made with object lock")
	f.StringVar(&s.endpoint, "endpoint", "", "https://HOST[:PORT] of another server than Amazon's")
	f.StringVar(&s.region, "region", "us-east-1", "region of the bucket")
	f.StringVar(&s.prefix, "prefix", "", "folder in the bucket, for what is here")
	c.AddCommand(pushCommand(&s), fetchCommand(&s), verifyCommand(&s))
	return c
}

func pushCommand(s *storage) *cobra.Command {
	var cfg archive.Config
	var days uint
	var every time.Duration
	c := &cobra.Command{
		Use:   "push STATE...",
		Short: "Archive the trails in state folders",
		Long: `Push archives what each STATE folder holds: the node's own trails, and the copies of others' that it
keeps. It reads them and writes nothing there, may be killed and repeated at any time, and takes up
where the bucket ends. A custodian's host is a good place for it: it has the trails of several nodes.

With --every it goes on until it is stopped. Exit code 1: a trail could not be archived, and why was said.`,
		Example: `  bailiwick-archive push /var/lib/bailiwick --bucket trails --endpoint https://s3.example.org --retain-days 2555
  bailiwick-archive push /var/lib/bailiwick --bucket trails --retain-days 400 --every 1h --hold on`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, states []string) error {
			if days < 1 || days > 36500 {
				return fmt.Errorf("--retain-days %d: want 1 to 36500; what is archived cannot be removed before", days)
			}
			if every != 0 && every < time.Minute {
				return fmt.Errorf("--every %s: want 1m or more", every)
			}
			if !slices.Contains([]archive.Hold{archive.Keep, archive.On, archive.Off}, cfg.Hold) {
				return fmt.Errorf("--hold %s: want on or off", cfg.Hold)
			}
			cfg.Retain = time.Duration(days) * 24 * time.Hour
			b, err := s.open(cmd.Context())
			if err != nil {
				return err
			}
			for {
				err := pushAll(cmd, b, states, cfg)
				if every == 0 {
					return err
				}
				if err != nil && !errors.Is(err, errFindings) {
					cmd.PrintErrln("bailiwick-archive:", err)
				}
				select {
				case <-time.After(every):
				case <-cmd.Context().Done():
					return nil
				}
			}
		},
	}
	f := c.Flags()
	f.UintVar(&days, "retain-days", 0, "days an object is locked from when it is put: there is no default, and no way back")
	f.StringVar((*string)(&cfg.Hold), "hold", "", "legal hold on everything archived of these trails, old and new: on or off; without it nothing changes, and what is new is as the newest was")
	f.BoolVar(&cfg.Decisions, "decisions", true, "segments of recorded decisions too")
	f.DurationVar(&every, "every", 0, "push again and again, so often; 0: once")
	return c
}

func pushAll(cmd *cobra.Command, b *archive.Bucket, states []string, cfg archive.Config) error {
	var failed error
	for _, state := range states {
		done, err := archive.Push(cmd.Context(), b, state, cfg)
		for _, d := range done {
			switch {
			case d.Err != nil:
				failed = errFindings
				cmd.PrintErrln("bailiwick-archive:", d.Err)
			case d.Size > d.Before:
				cmd.Printf("%s: %d leaves archived, %d of them new\n", d.Origin, d.Size, d.Size-d.Before)
			default:
				cmd.Printf("%s: %d leaves archived, nothing new\n", d.Origin, d.Size)
			}
		}
		if err != nil {
			failed = err
		}
	}
	return failed
}

// whom reads --id.
func whom(id string) (spiffeid.ID, error) {
	if id == "" {
		return spiffeid.ID{}, nil
	}
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return parsed, fmt.Errorf("--id: %w", err)
	}
	return parsed, nil
}

func fetchCommand(s *storage) *cobra.Command {
	var id string
	c := &cobra.Command{
		Use:   "fetch DIR",
		Short: "Bring archived trails into a folder, for bailiwick trail verify and trail ask",
		Example: `  bailiwick-archive fetch out --bucket trails --id spiffe://east.example.org/node/edge-7
  bailiwick trail verify out/east.example.org/edge-7/trail --id spiffe://east.example.org/node/edge-7 --trust trust.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			node, err := whom(id)
			if err != nil {
				return err
			}
			b, err := s.open(cmd.Context())
			if err != nil {
				return err
			}
			got, err := archive.Fetch(cmd.Context(), b, node, args[0])
			for _, g := range got {
				cmd.Printf("%s: %d leaves in %s%s\n", g.Origin, g.Size, g.Dir, remarks(g))
			}
			return err
		},
	}
	c.Flags().StringVar(&id, "id", "", "SPIFFE ID of the node whose trails to fetch (default: all)")
	return c
}

func remarks(g archive.Fetched) (out string) {
	if g.Absent > 0 {
		out += fmt.Sprintf("; %d objects are not there", g.Absent)
	}
	if g.Unlocked > 0 {
		out += fmt.Sprintf("; %d objects are NOT LOCKED any more", g.Unlocked)
	}
	return out
}

func verifyCommand(s *storage) *cobra.Command {
	var id string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check archived trails: integrity, completeness and locks",
		Long: `Verify fetches trails into a folder that it removes afterwards, and checks each as bailiwick trail verify
does, with the trail's own word for its key. To check whose key it is, and the segments of decisions, fetch
and use bailiwick trail verify. Exit code 1: something is not as it should be.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			node, err := whom(id)
			if err != nil {
				return err
			}
			b, err := s.open(cmd.Context())
			if err != nil {
				return err
			}
			return verify(cmd, b, node)
		},
	}
	c.Flags().StringVar(&id, "id", "", "SPIFFE ID of the node whose trails to verify (default: all)")
	return c
}

func verify(cmd *cobra.Command, b *archive.Bucket, node spiffeid.ID) error {
	dir, err := os.MkdirTemp("", "bailiwick-archive.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	got, err := archive.Fetch(cmd.Context(), b, node, dir)
	if err != nil {
		return err
	}
	var failed error
	for _, g := range got {
		r, err := trail.Verify(cmd.Context(), g.Dir, trail.Options{Node: g.Node, Later: filepath.Dir(g.Dir)})
		if err != nil {
			return err
		}
		if !r.Good() || g.Unlocked > 0 {
			failed = errFindings
		}
		cmd.Printf("%s: %d leaves\n  integrity     %s\n  completeness  %s\n  locks         ", g.Origin, r.Size, r.Integrity, r.Completeness)
		if g.Unlocked > 0 {
			cmd.Printf("%d objects are NOT LOCKED any more\n", g.Unlocked)
		} else {
			cmd.Println("good")
		}
	}
	return failed
}
