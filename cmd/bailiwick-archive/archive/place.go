package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/custody"
)

const (
	headsDir     = "heads"
	conflictDir  = "conflict"
	decisionsDir = "decisions"
	trailDir     = "trail"
)

var (
	segmentName = regexp.MustCompile(`^[0-9]{12}\.ndjson\.gz$`)
	besideName  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	headName    = regexp.MustCompile(`^([0-9]{20})\.[0-9a-f]{16}$`)
)

// besideDirs are the folders beside a node's trails that say what heads and leaves rest on: who its witnesses are, whose
// keys cosigned, and the trust records it has held. Their files are named by SHA-256.
var besideDirs = []string{"rosters", "witnesses", "trust"}

// ErrNothing means that a folder is no node's state folder: no trail is in it.
var ErrNothing = errors.New("no trail in this state folder")

// owned is all of one node's trails in a state folder, or a custodian's copy of them.
type owned struct {
	dir    string // has the folders trail and decisions
	epochs []uint64
}

// find lists what a state folder holds: the node's own trails, and the copies it keeps. Errors wrap ErrNothing, or
// are the file system's.
func find(state string) ([]owned, error) {
	dirs := []string{state}
	copies, err := os.ReadDir(filepath.Join(state, custody.DirName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, c := range copies {
		dirs = append(dirs, filepath.Join(state, custody.DirName, c.Name()))
	}
	var out []owned
	for _, dir := range dirs {
		epochs, err := trail.Epochs(filepath.Join(dir, trailDir))
		if err != nil {
			return nil, err
		}
		if len(epochs) > 0 {
			out = append(out, owned{dir, epochs})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNothing, state)
	}
	return out, nil
}

// nodeKey is where everything of a node's is: its trails' origins without the epoch.
func nodeKey(origin string) string { return origin[:strings.LastIndexByte(origin, '/')] }

// localDir is the folder of a node's state below a folder that was fetched: <td>/<name> or <td>/<zone>+<name>.
func localDir(id spiffeid.ID) string {
	seg := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	name := seg[len(seg)-1]
	if len(seg) == 4 {
		name = seg[1] + "+" + name
	}
	return filepath.Join(id.TrustDomain().Name(), name)
}

// headKey names a head below its trail, so that keys sort by size and two heads never share one.
func headKey(dir string, size uint64, digest [32]byte) string {
	return fmt.Sprintf("%s/%020d.%x", dir, size, digest[:8])
}

// headSize is the reverse, for what follows the folder.
func headSize(name string) (uint64, bool) {
	m := headName.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	return n, err == nil
}
