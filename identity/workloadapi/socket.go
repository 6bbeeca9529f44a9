package workloadapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Errors of Listen. Each is one cause an operator can act on.
var (
	// ErrBusy means another process serves the socket.
	ErrBusy = errors.New("another process serves this socket: stop it or choose another path")
	// ErrNotSocket means the path is taken by something that is no socket.
	ErrNotSocket = errors.New("path is taken by a file that is not a socket: move it or choose another path")
	// ErrLongPath means the path does not fit into a socket address.
	ErrLongPath = errors.New("socket path is too long: unix sockets take at most 107 bytes")
)

const maxPath = 107 // unix(7): sun_path with its final zero is 108 bytes

// listen makes the socket, replacing one that nobody listens on.
func listen(path string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%s: %w", path, ErrLongPath)
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("folder of the Workload API socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %w", path, ErrBusy)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o777); err != nil { // the umask took some of it
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// makeDir makes the folder and those above it, open to be passed through by
// everyone whatever the umask. What is there already stays as it is.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// removeStale removes a socket file that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%w (%s)", ErrNotSocket, info.Mode())
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		return errors.Join(ErrBusy, c.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist): // its server just removed it
		return nil
	}
	return fmt.Errorf("%w (%w)", ErrBusy, err)
}
