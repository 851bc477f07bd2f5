// SPDX-License-Identifier: Apache-2.0

package usernet

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"builder/container"
	"builder/internal/sys"
	"builder/network"
)

// Client is a [network.Base] of the process of a directory. A process has one
// for each directory at most.
type Client struct {
	dir     string
	command []string
	warn    func(string)

	mu      sync.Mutex
	threads *network.Threads
}

// NewClient makes the client of a directory. command is the command line that
// calls [Serve], with a descriptor 3 that it closes when it is ready, or to
// which it writes why it can't be.
func NewClient(dir string, command []string, warn func(string)) *Client {
	return &Client{dir: dir, command: command, warn: warn}
}

// Threads implements [network.Base]. Once there are some, they stay: the
// namespace is open.
func (c *Client) Threads(start bool) (*network.Threads, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.threads != nil {
		return c.threads, nil
	}
	conn, ns, err := c.connect(start)
	if conn == nil || err != nil {
		return nil, err
	}
	if err := c.hold(ns); err != nil {
		return nil, err
	}
	go c.watch(conn)
	return c.threads, nil
}

// hold keeps the namespace and says so to a process that looks for it.
func (c *Client) hold(ns *os.File) error {
	c.threads = network.NewThreads(ns)
	text := fmt.Sprintf("%d %d", container.StartTime(os.Getpid()), ns.Fd())
	return os.WriteFile(filepath.Join(c.dir, strconv.Itoa(os.Getpid())), []byte(text), 0o600)
}

// startTimeout bounds the wait for the process.
const startTimeout = 10 * time.Second

// connect connects to the process, which it starts if there is none and start
// says so; else the connection is nil.
func (c *Client) connect(start bool) (*net.UnixConn, *os.File, error) {
	deadline := time.Now().Add(startTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		conn, ns, err := c.dial()
		if err == nil || !gone(err) {
			return conn, ns, err
		}
		if !start {
			return nil, nil, nil
		}
		if err := c.spawn(); err != nil {
			return nil, nil, fmt.Errorf("start the process of the containers' network: %w", err)
		}
		if conn, ns, err = c.dial(); err == nil || !gone(err) {
			return conn, ns, err
		}
		if time.Now().After(deadline) {
			return nil, nil, fmt.Errorf("the process of the containers' network does not start: see %s", filepath.Join(c.dir, logFile))
		}
		time.Sleep(wait) // another one is beginning, or ending
	}
}

// gone says whether an error means that there is no process.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

func (c *Client) dial() (conn *net.UnixConn, ns *os.File, err error) {
	err = at(c.dir, func(path string) error {
		conn, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if ns, err = receive(conn); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, ns, nil
}

// spawn starts a process and waits until it is ready or has ended.
func (c *Client) spawn() error {
	why, err := sys.StartDetached(c.command, filepath.Join(c.dir, logFile))
	if err == nil && len(why) > 0 {
		err = errors.New(string(why))
	}
	return err
}

// watch starts another process when this one is killed.
func (c *Client) watch(conn *net.UnixConn) {
	for failures := 0; ; {
		_, _ = conn.Read(make([]byte, 1)) // it says nothing, and ends
		_ = conn.Close()
		next, ns, err := c.connect(true)
		if err != nil {
			if failures++; failures == 1 {
				c.warn(fmt.Sprintf("containers can't reach the outside: %v", err))
			}
			time.Sleep(time.Second)
			continue
		}
		failures, conn = 0, next
		c.mu.Lock()
		if sameFile(ns, c.threads.Namespace()) {
			ns.Close()
		} else if err := c.hold(ns); err != nil {
			c.warn(err.Error())
		}
		c.mu.Unlock()
	}
}

func sameFile(a, b *os.File) bool {
	one, err1 := a.Stat()
	two, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(one, two)
}
