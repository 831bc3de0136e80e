// What the tests set and ask of the emulation.
#include "emulation.h"

extern "C" {

void set_schedule(int schedule) {
  emulation::schedule = static_cast<emulation::Schedule>(schedule);
}

void set_skipped(int site) {
  emulation::skipped = site;
}

void set_shared_limit(size_t bytes) {
  emulation::shared_limit = bytes;
  emulation::shared_allowed.clear();
}

void set_multiprocessors(int count) {
  emulation::multiprocessors = count;
}

// The least shared memory that a kernel which asked for more may have.
size_t least_allowed() {
  size_t least = SIZE_MAX;
  for (const auto& [kernel, bytes] : emulation::shared_allowed) least = std::min(least, bytes);
  return least;
}

// From here on launches are written down, with the grid that a device would see, and nothing runs.
void start_recording() {
  emulation::recording = true;
  emulation::launches.clear();
  emulation::most_blocks = INT32_MAX;
}

// The launches; from here on kernels run again.
const char* stop_recording() {
  emulation::recording = false;
  emulation::most_blocks = 3;
  return emulation::launches.c_str();
}

// Places where threads wait, in the order in which they were first reached.
int sites() {
  return static_cast<int>(emulation::sites.size());
}

const char* site_file(int site) {
  return emulation::sites[site].file.c_str();
}

const char* site_function(int site) {
  return emulation::sites[site].function.c_str();
}

int site_line(int site) {
  return emulation::sites[site].line;
}

long long site_passed(int site) {
  return emulation::sites[site].passed;
}
}
