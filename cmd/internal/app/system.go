package app

import (
	"net"
	"os"
)

// notifySystemd tells the service manager a state (sd_notify(3)), if there is one.
func notifySystemd(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return // a manager that does not listen does not need to be told
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
