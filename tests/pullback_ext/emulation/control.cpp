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
